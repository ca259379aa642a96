# The sending end.


cdef bytes label_of(str name):
    """The name as it stands in the channel: UTF-8, cut between characters."""
    return name.encode(errors="replace")[:FB_NAME_BYTES].decode(errors="ignore").encode()


@cython.no_gc_clear
cdef class ProducerCore:
    """The sending end of a channel: cursors, credit, wake-ups."""

    cdef fb_tx tx
    cdef PoolCore owner
    cdef Mapping chan
    cdef uint32_t forks
    cdef int space_fd, busy
    cdef bint is_closed, registered
    cdef bint is_lost
    cdef public bint lingers  # of a shared pool: slots stay out after a close, until the consumer gives them back
    cdef uint64_t reports  # of the consumer, up to the one that was read last
    cdef readonly str name
    cdef public object on_high, on_low

    def __cinit__(self, *args, **kwargs):
        self.tx.data_fd = self.space_fd = -1
        self.forks = fb_forks
        self.name = "channel"

    cdef void open(self, PoolCore owner, Mapping chan, fb_geometry *g, int data_fd, int space_fd, bytes label):
        cdef fb_super *s = super_of(chan.base)
        cdef fb_tx *tx = &self.tx
        g.magic = FB_MAGIC
        g.major, g.minor = FB_MAJOR, FB_MINOR
        g.endian = FB_ENDIAN
        g.ring_offset = FB_RING
        g.completion_offset = FB_RING + g.ring_bytes
        g.lease_offset = g.completion_offset + g.completion_items * 8
        g.classes = owner.shape.classes
        g.pool_bytes = owner.shape.pool_bytes
        memcpy(g.shape, owner.shape.shape, sizeof(g.shape))
        g.crc32c = fb_crc32c(g, <char *> &g.crc32c - <char *> g)
        memcpy(&s.geometry, g, sizeof(fb_geometry))
        tx.g = g[0]
        tx.chan = chan.base
        tx.pool = &owner.pool
        tx.data_fd = data_fd
        tx.high_items = g.window_items * g.high_permille // 1000
        tx.low_items = g.window_items * g.low_permille // 1000
        tx.high_bytes = g.ring_bytes * g.high_permille // 1000
        tx.low_bytes = g.ring_bytes * g.low_permille // 1000
        self.owner, self.chan, self.space_fd = owner, chan, space_fd
        memcpy(s.name, <const char *> label, len(label))
        store32(&s.state, FB_READY, memory_order_release)

    def _open(self, PoolCore pool, Mapping chan, int data_fd, int space_fd, *, str name, bytes uuid, ring_bytes,
              completion_items, window_items, inline_bytes_max, high_permille, low_permille, pid, start, flags,
              pool_inode):
        """Lay out a new channel. The two event descriptors are owned from here on, even when this fails."""
        cdef fb_geometry g
        cdef const char *problem
        self.tx.data_fd, self.space_fd = data_fd, space_fd
        memset(&g, 0, sizeof(fb_geometry))
        memcpy(g.uuid, <const char *> uuid, 16)
        g.total_bytes, g.ring_bytes, g.completion_items = chan.nbytes, ring_bytes, completion_items
        g.window_items, g.inline_bytes_max = window_items, inline_bytes_max
        g.high_permille, g.low_permille = high_permille, low_permille
        g.creator_pid, g.creator_start, g.flags = pid, start, flags
        self.name = name
        pool.settle()
        bit = next((i for i in range(FB_PORTS) if pool.pool.tx[i] == NULL), FB_PORTS)
        if bit == FB_PORTS:
            raise LocalProtocolError(f"{name}: the pool serves {FB_PORTS} channels, the most that it can")
        super_of(chan.base).pool_inode = pool_inode
        self.open(pool, chan, &g, data_fd, space_fd, label_of(name))
        problem = fb_geometry_problem(&g, chan.nbytes, pool.shape.pool_bytes)
        if problem != NULL:
            raise LocalProtocolError(f"{name}: {problem.decode()}")
        self.tx.bit = bit
        pool.pool.tx[bit] = &self.tx
        pool.ports += 1
        self.registered = True

    cdef void detach(self):
        if self.registered:
            self.owner.pool.tx[self.tx.bit] = NULL
            self.registered = False

    def __dealloc__(self):
        if self.chan is not None and self.forks == fb_forks and not self.is_closed:
            self.leave(FB_ABANDONED)
        if self.registered:
            self.owner.pool.tx[self.tx.bit] = NULL
            if not self.is_closed:
                self.owner.leave()
        if self.space_fd >= 0:
            close(self.space_fd)
        if self.tx.data_fd >= 0:
            close(self.tx.data_fd)

    cdef void leave(self, uint32_t state):
        cdef uint32_t expected = FB_READY
        cas32(&super_of(self.tx.chan).state, &expected, state)
        fb_tx_wake(&self.tx)

    cdef inline int check(self) except -1:
        if self.is_closed or self.forks != fb_forks or self.chan is None:
            self.refuse_handle()
        return 0

    cdef int refuse_handle(self) except -1:
        if self.forks != fb_forks:
            raise forked_error(self.name)
        raise ClosedError(f"{self.name}: the producer is closed")

    cdef int refuse(self, int code) except -1:
        if code == FB_BAD_PEER:
            raise RemoteProtocolError(f"{self.name}: {self.tx.problem.decode()}; the channel is poisoned")
        if load32(&super_of(self.tx.chan).state, memory_order_acquire) == FB_POISONED:
            raise BrokenError(f"{self.name}: the consumer found the channel damaged and poisoned it")
        if self.is_lost:
            raise BrokenError(f"{self.name}: the consumer vanished after {self.tx.head_seq} messages")
        raise BrokenError(f"{self.name}: the consumer closed its end")

    cdef int must_fit(self, uint64_t length) except -1:
        if length > fb_pool_largest(self.tx.pool):
            raise LocalProtocolError(
                f"{self.name}: a payload of at most {max(fb_pool_largest(self.tx.pool), self.tx.g.inline_bytes_max)} "
                f"bytes fits, this one has {length}"
            )
        return 0

    cdef int no_slot(self, uint64_t length) except -1:
        """The code for a message that has no slot now; an error if there is no memory for any that would fit."""
        if fb_pool_never(self.tx.pool, length):
            raise self.owner.full_error(length)
        return fb_tx_blocked(&self.tx, FB_NO_SLOT, FB_ALIGN, length)

    cdef void notice(self) noexcept:
        cdef int edge = fb_tx_watermark(&self.tx)
        if edge == 0:
            return
        callback = self.on_high if edge > 0 else self.on_low
        if callback is not None:
            callback()  # what it raises goes to sys.unraisablehook: the message is sent

    cdef int put(self, object payload, fb_record *r) except -1:
        """Admit and stage one message: 0, or the code of what is missing."""
        cdef Py_buffer view
        cdef int code
        if PyBytes_CheckExact(payload):
            view.buf = PyBytes_AS_STRING(payload)
            view.len = PyBytes_GET_SIZE(payload)
            return self.put_view(&view, r)
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        try:
            code = self.put_view(&view, r)
        finally:
            PyBuffer_Release(&view)
        return code

    cdef int put_view(self, Py_buffer *view, fb_record *r) except -1:
        cdef bint in_ring = <uint64_t> view.len <= self.tx.g.inline_bytes_max
        cdef uint32_t slot
        cdef int code
        if self.is_lost:
            self.refuse(FB_GONE)
        r.length = view.len
        if r.kind != FB_INLINE:
            if r.kind != FB_CTRL:
                raise LocalProtocolError(f"{self.name}: a record is of kind {FB_INLINE} or {FB_CTRL}, not {r.kind}")
            if r.length > self.tx.g.ring_bytes // 2 - FB_ALIGN:
                raise LocalProtocolError(
                    f"{self.name}: a control record has at most {self.tx.g.ring_bytes // 2 - FB_ALIGN} bytes, "
                    f"this one {r.length}"
                )
            in_ring = True
        if in_ring:
            code = fb_tx_admit(&self.tx, r.length)
            if code:
                return self.refuse(code) if code < 0 else code
        else:
            self.must_fit(r.length)
            code = fb_tx_admit(&self.tx, 0)
            if code:
                return self.refuse(code) if code < 0 else code
            slot = fb_pool_take(self.tx.pool, r.length)
            if slot == FB_NOWHERE:
                return self.no_slot(r.length)
            r.slot = slot
            r.gen = fb_slot_gen(self.tx.pool, slot)
            r.kind = FB_SLOT
            self.busy += 1
            copy_in(fb_slot_at(self.tx.pool, slot), view)
            self.busy -= 1
            code = self.admit_loan(slot)
            if code:
                fb_slot_free(self.tx.pool, slot)
                return code
        if r.seq == <uint64_t> -1:
            r.seq = self.tx.tail_seq
        fb_tx_stage(&self.tx, r, view.buf if in_ring else NULL)
        return 0

    cdef int admit_loan(self, uint32_t slot) except -1:
        """Ask again after a copy, in which another thread may have sent or closed; frees the slot when it raises."""
        cdef int code = FB_GONE
        try:
            self.check()
            code = fb_tx_admit(&self.tx, 0)
            if code < 0:
                self.refuse(code)
        except BaseException:
            fb_slot_free(self.tx.pool, slot)
            raise
        return code

    def try_send(self, payload, uint8_t lane=0, uint16_t codec=0, int64_t seq=-1,
                 int64_t deadline_ns=0x7FFFFFFFFFFFFFFF, int64_t origin_ns=0, int64_t sent_ns=0,
                 uint64_t size_bytes=0, uint32_t tag=0, uint8_t kind=1):
        cdef fb_record r
        cdef int code
        self.check()
        fill(&r, lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, kind)
        code = self.put(payload, &r)
        if code == 0:
            fb_tx_publish(&self.tx)
            self.notice()
        return code

    def try_send_records(self, list records):
        cdef fb_record r
        cdef int count = 0
        self.check()
        try:
            for payload, lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, kind in records:
                fill(&r, lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, kind)
                if self.put(payload, &r) != 0:
                    break
                count += 1
        finally:
            if not self.is_closed:
                fb_tx_publish(&self.tx)
                self.notice()
        return count

    def try_send_plain(self, envelopes, int lane, int64_t items, int64_t size_bytes, int64_t now_ns, int64_t sent_ns,
                       dict trails, encode, unsigned int closing):
        return send_plain(self, envelopes, lane, items, size_bytes, now_ns, sent_ns, trails, encode, closing)

    def send_many(self, payloads):
        cdef fb_record r
        cdef int count = 0
        self.check()
        try:
            for payload in payloads:
                fill(&r, 0, 0, -1, NO_DEADLINE, 0, 0, 0, 0, FB_INLINE)
                if self.put(payload, &r) != 0:
                    break
                count += 1
        finally:
            if not self.is_closed:
                fb_tx_publish(&self.tx)
                self.notice()
        return count

    def try_loan(self, uint64_t nbytes):
        cdef uint32_t slot
        cdef Loan loan
        self.check()
        if self.is_lost:
            self.refuse(FB_GONE)
        self.must_fit(nbytes)
        code = fb_tx_admit(&self.tx, 0)
        if code < 0:
            self.refuse(code)
        if code > 0:
            return None
        loan = Loan.__new__(Loan)
        slot = fb_pool_take(self.tx.pool, nbytes)
        if slot == FB_NOWHERE:
            self.no_slot(nbytes)
            return None
        loan.producer = self
        loan.slot = slot
        loan.nbytes = nbytes
        loan.at = fb_slot_at(self.tx.pool, slot)
        return loan

    @property
    def blocked_by(self):
        """The code of what the last refused call needed, 0 when none was refused."""
        return {FB_WANT_CREDIT: FB_NO_CREDIT, FB_WANT_RING: FB_NO_RING, FB_WANT_SLOTS: FB_NO_SLOT}.get(self.tx.want, 0)

    def wait_space(self, int64_t wait_ns):
        """Sleep without the interpreter until what was missing may be there: 0 woken, 1 timed out, 2 interrupted."""
        cdef atomic_u32 *word
        cdef uint32_t seen
        cdef int how
        self.check()
        word = &consumer_of(self.tx.chan).space_seq
        seen = load32(word, memory_order_acquire)
        if not fb_tx_arm(&self.tx, FB_BY_FUTEX, self.tx.want):
            return FB_WOKEN
        self.busy += 1
        with nogil:
            how = fb_futex_wait(word, seen, wait_ns if wait_ns < SLEEP_NS_MAX else SLEEP_NS_MAX)
        self.busy -= 1
        store32(&producer_of(self.tx.chan).space_wait, 0, memory_order_relaxed)
        return how

    def send(self, payload, timeout_ns=None, uint8_t lane=0, uint16_t codec=0, int64_t seq=-1,
             int64_t deadline_ns=0x7FFFFFFFFFFFFFFF, int64_t origin_ns=0, int64_t sent_ns=0,
             uint64_t size_bytes=0, uint32_t tag=0, uint8_t kind=1):
        cdef fb_record r
        cdef int code, how
        cdef int64_t until = NO_DEADLINE, left = SLEEP_NS_MAX
        if timeout_ns is not None:
            until = moment(timeout_ns)
        while True:
            self.check()
            fill(&r, lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, kind)
            code = self.put(payload, &r)
            if code == 0:
                fb_tx_publish(&self.tx)
                self.notice()
                return
            left = until - fb_now_ns()
            if left <= 0:
                raise WouldBlock(REASONS[code], self.name)
            how = self.wait_space(left)
            PyErr_CheckSignals()
            if how == FB_TIMED_OUT and not self._peer_may_live():
                self.is_lost = True

    def arm(self, bint any_change=False):
        cdef uint32_t want = FB_WANT_ANY if any_change else self.tx.want
        self.check()
        if want == 0 and self.tx.above:
            fb_tx_refresh(&self.tx)
            want = fb_tx_above_low(&self.tx)
        if want == 0 or self.is_lost:
            return False
        if fb_tx_arm(&self.tx, FB_BY_EVENTFD, want):
            return True
        self.tx.want = 0
        self.notice_low()
        return False

    cdef void notice_low(self):
        if self.tx.above and self.tx.problem == NULL:
            self.notice()

    def disarm(self):
        self.check()
        store32(&producer_of(self.tx.chan).space_wait, 0, memory_order_relaxed)

    def clear(self):
        self.check()
        store32(&producer_of(self.tx.chan).space_wait, 0, memory_order_relaxed)
        fb_event_clear(self.space_fd)
        self.tx.want = 0
        self.notice_low()

    def fileno(self):
        self.check()
        return self.space_fd

    def event_descriptors(self):
        self.check()
        return self.tx.data_fd, self.space_fd

    def wake_consumer(self):
        self.check()
        fb_tx_wake(&self.tx)

    def add_counter(self, unsigned int index, uint64_t n=1):
        self.check()
        if index >= FB_COUNTERS:
            raise LocalProtocolError(f"{self.name}: counters go from 0 to {FB_COUNTERS - 1}, not {index}")
        self.tx.counter[index] += n
        store64(&producer_of(self.tx.chan).counter[index], self.tx.counter[index], memory_order_release)

    def counter(self, unsigned int index):
        self.check()
        if index >= FB_COUNTERS:
            raise LocalProtocolError(f"{self.name}: counters go from 0 to {FB_COUNTERS - 1}, not {index}")
        return load64(&consumer_of(self.tx.chan).counter[index], memory_order_acquire)

    def read_counters(self, unsigned int count=64):
        self.check()
        count = min(count, <unsigned int> FB_COUNTERS)
        return tuple([load64(&consumer_of(self.tx.chan).counter[i], memory_order_acquire) for i in range(count)])

    def newer_report(self, unsigned int count):
        return newer_report(self, min(count, <unsigned int> FB_COUNTERS - 2))

    @property
    def counters(self):
        return tuple([self.tx.counter[i] for i in range(FB_COUNTERS)])

    @property
    def consumer_process(self):
        """Process id and start stamp of the consumer as it wrote them, or None before it attached."""
        self.check()
        if load32(&consumer_of(self.tx.chan).attach, memory_order_acquire) != FB_LIVE:
            return None
        return consumer_of(self.tx.chan).pid, consumer_of(self.tx.chan).start

    def _peer_may_live(self):
        return True

    def peer_lost(self):
        self.is_lost = True
        self._rouse()

    def _rouse(self):
        """Wake a thread of this process that waits in `send`."""
        if self.chan is not None and self.forks == fb_forks and self.busy:
            fb_futex_wake(&consumer_of(self.tx.chan).space_seq)

    def reclaim(self):
        cdef uint64_t lost
        if self.forks != fb_forks or self.chan is None:
            self.refuse_handle()
        lost = fb_tx_reclaim(&self.tx)
        self.is_lost = False
        self.tx.want = 0
        self.owner.settle()
        return lost

    def _close(self):
        if self.is_closed or self.chan is None:
            return
        self.is_closed = True
        if self.registered:
            self.owner.leave()
        if self.forks == fb_forks:
            store_int(&self.tx.stop, 1, memory_order_relaxed)
            self._rouse()
            self.leave(FB_CLOSED)
            if self.tx.held == 0 or not self.lingers:
                self.detach()
            else:  # the consumer still reads; the pool takes its slots back when it is done
                self.owner.lingering.append(self)
        if self.space_fd >= 0:
            close(self.space_fd)
        if self.tx.data_fd >= 0:
            close(self.tx.data_fd)
        self.space_fd = self.tx.data_fd = -1

    @property
    def closed(self):
        return self.is_closed

    @property
    def above_high(self):
        return bool(self.tx.above)

    def _stats(self):
        self.check()
        if self.tx.problem == NULL:
            fb_tx_refresh(&self.tx)
        self.owner.settle()
        return (self.tx.tail_seq, self.tx.tail_seq - self.tx.head_seq, self.tx.tail - self.tx.head, self.tx.held,
                self.tx.blocked[1], self.tx.blocked[2], self.tx.blocked[3], self.tx.wakes, self.tx.highs,
                self.owner.pool.bogus_returns)
