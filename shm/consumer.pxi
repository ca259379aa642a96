# The receiving side: the lease and the consumer.


@cython.no_gc
@cython.freelist(64)
cdef class Lease:
    """One received message: a read-only buffer, and what its sender said about it.

    A payload that travelled in a slot stays there, and the slot is out, until the lease and every view of it are
    gone; any thread may drop the last one. A small payload is a private copy (`copied`). Times are monotonic
    nanoseconds; `held_since_ns` is when the lease was made.
    """

    cdef ConsumerCore consumer  # None when the lease holds no slot
    cdef bytes data
    cdef const unsigned char *at
    cdef fb_record r
    cdef int exports
    cdef bint released
    cdef readonly int64_t held_since_ns

    def __init__(self):
        raise TypeError("a Lease comes from ShmConsumer.receive")

    def __dealloc__(self):
        if self.consumer is not None:
            self.give_back()

    cdef void give_back(self) noexcept:
        cdef ConsumerCore c = self.consumer
        self.consumer = None
        c.give_back(self.r.slot, self.r.gen, True)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.released:
            raise BufferError("the lease is released")
        PyBuffer_FillInfo(view, self, <void *> self.at, self.r.length, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    def __len__(self):
        return self.r.length

    def release(self):
        if self.exports:
            raise BufferError(f"the lease still has {self.exports} views; release them first")
        self.released = True
        self.data = None
        if self.consumer is not None:
            self.give_back()

    def to_bytes(self):
        if self.released:
            raise BufferError("the lease is released")
        if self.data is not None:
            return self.data
        self.exports += 1  # holds the slot while the interpreter is let go
        try:
            return copy_out(self.at, self.r.length)
        finally:
            self.exports -= 1

    @property
    def nbytes(self): return self.r.length
    @property
    def copied(self): return self.consumer is None
    @property
    def kind(self): return self.r.kind
    @property
    def lane(self): return self.r.lane
    @property
    def codec(self): return self.r.codec
    @property
    def seq(self): return self.r.seq
    @property
    def deadline_ns(self): return self.r.deadline_ns
    @property
    def origin_ns(self): return self.r.origin_ns
    @property
    def sent_ns(self): return self.r.sent_ns
    @property
    def size_bytes(self): return self.r.size_bytes
    @property
    def tag(self): return self.r.tag


cdef inline bytes inline_payload(fb_record *r, const unsigned char *at):
    """Out of the ring, and in one go: another thread could give this part of the ring back."""
    return PyBytes_FromStringAndSize(<const char *> at, r.length)


@cython.no_gc_clear
cdef class ConsumerCore:
    """The receiving end of a channel."""

    cdef fb_rx rx
    cdef Mapping chan, pool
    cdef uint32_t forks
    cdef int data_fd, busy, max_leases
    cdef readonly int leases
    cdef bint is_closed, is_lost
    cdef uint64_t copies
    cdef readonly str name
    cdef public int64_t spin_ns_max

    def __cinit__(self, *args, **kwargs):
        self.data_fd = self.rx.space_fd = -1
        self.forks = fb_forks
        self.name = "channel"

    def _open(self, Mapping chan, Mapping pool, int data_fd, int space_fd, *, str name, max_leases, pid, start):
        """Check and join a channel. The two event descriptors are owned from here on, even when this fails."""
        cdef fb_rx *rx = &self.rx
        cdef fb_consumer_page *c
        cdef uint32_t expected = FB_FREE
        cdef const char *problem
        cdef uint64_t slots = 0, pool_bytes = 0, least = 0x4000
        cdef uint32_t i
        self.data_fd, rx.space_fd = data_fd, space_fd
        self.name = name
        if chan.nbytes < least or not chan.writable:
            raise RemoteProtocolError(f"{name}: a channel has at least {least} bytes, this one {chan.nbytes}")
        memcpy(&rx.g, chan.base, sizeof(fb_geometry))
        if pool is not None:
            rx.pool = pool.base
            pool_bytes = pool.nbytes
        problem = fb_geometry_problem(&rx.g, chan.nbytes, pool_bytes)
        if problem != NULL:
            raise RemoteProtocolError(f"{name}: {problem.decode()}")
        for i in range(rx.g.classes):
            slots += rx.g.shape[i].count
        rx.chan = chan.base
        fb_rx_place_leases(rx)
        rx.low_items = rx.g.window_items * rx.g.low_permille // 1000
        rx.low_bytes = rx.g.ring_bytes * rx.g.low_permille // 1000
        c = consumer_of(chan.base)
        if not cas32(&c.attach, &expected, FB_LIVE):
            raise LocalProtocolError(f"{name}: a channel has one consumer, this one had its own")
        c.pid, c.start = pid, start
        rx.head = rx.published = rx.tail = load64(&c.head, memory_order_acquire)
        rx.head_seq = load64(&c.head_seq, memory_order_relaxed)
        rx.credit_seq = load64(&c.credit_seq, memory_order_relaxed)
        rx.completion_tail = load64(&c.completion_tail, memory_order_relaxed)
        rx.epoch = load64(&super_of(chan.base).epoch, memory_order_acquire)
        for i in range(<uint32_t> FB_COUNTERS):
            rx.counter[i] = load64(&c.counter[i], memory_order_relaxed)
        slots //= 2
        self.max_leases = (slots or 1) if max_leases is None else max_leases
        self.chan, self.pool = chan, pool
        if rx.head % FB_ALIGN:
            rx.problem = "the head is outside the ring"
            raise RemoteProtocolError(f"{name}: the head is outside the ring")
        fb_rx_wake(rx, FB_WANT_ANY)

    @property
    def creator_process(self):
        """Process id and start stamp of the producer as it wrote them."""
        return self.rx.g.creator_pid, self.rx.g.creator_start

    @property
    def sealed(self):
        """Whether the producer says that its segments are sealed memfds."""
        return bool(self.rx.g.flags & 1)

    def __dealloc__(self):
        self.leave()
        self.close_descriptors()

    cdef void leave(self) noexcept:
        cdef uint32_t expected = FB_LIVE
        if self.chan is None or self.is_closed or self.forks != fb_forks or not fb_rx_current(&self.rx):
            return
        cas32(&consumer_of(self.chan.base).attach, &expected, FB_DETACHED)
        fb_rx_wake(&self.rx, FB_WANT_CREDIT | FB_WANT_RING | FB_WANT_SLOTS | FB_WANT_ANY)

    cdef void close_descriptors(self) noexcept:
        if self.data_fd >= 0:
            close(self.data_fd)
        if self.rx.space_fd >= 0:
            close(self.rx.space_fd)
        self.data_fd = self.rx.space_fd = -1

    cdef inline int check(self) except -1:
        if self.is_closed or self.forks != fb_forks or self.chan is None or self.rx.problem != NULL:
            if self.forks != fb_forks:
                raise forked_error(self.name)
            if self.is_closed or self.chan is None:
                raise ClosedError(f"{self.name}: the consumer is closed")
            raise RemoteProtocolError(f"{self.name}: {self.rx.problem.decode()}; the channel is poisoned")
        return 0

    cdef int ended(self) except -1:
        """Called when nothing is there: whether anything can still come. Raises when not."""
        cdef uint32_t state = load32(&super_of(self.rx.chan).state, memory_order_acquire)
        if not fb_rx_current(&self.rx):
            raise BrokenError(f"{self.name}: the producer took the channel back after {self.rx.head_seq} messages")
        if state == FB_READY and not self.is_lost:
            return 0
        # What was published before the end is received first.
        if load64(&producer_of(self.rx.chan).tail, memory_order_acquire) != self.rx.head:
            return 0
        if state == FB_CLOSED:
            raise EndOfStream(f"{self.name}: the producer finished after {self.rx.head_seq} messages")
        if state == FB_POISONED:
            raise RemoteProtocolError(f"{self.name}: the producer found the channel damaged and poisoned it")
        raise BrokenError(f"{self.name}: the producer vanished after {self.rx.head_seq} messages")

    cdef void give_back(self, uint32_t slot, uint32_t gen, bint noted) noexcept:
        self.leases -= 1
        if self.forks == fb_forks and self.rx.problem == NULL:
            if noted:
                fb_rx_note(&self.rx, slot, 0)
            fb_rx_return(&self.rx, slot, gen)

    cdef bytes copy_slot(self, fb_record *r, const unsigned char *at):
        """A private copy of what a slot holds; the slot goes back at once."""
        cdef fb_record mine = r[0]
        try:
            self.busy += 1
            return copy_out(at, mine.length)
        finally:
            self.busy -= 1
            self.leases += 1
            self.give_back(mine.slot, mine.gen, False)

    cdef Lease lease(self, fb_record *r, const unsigned char *at):
        cdef Lease lease = Lease.__new__(Lease)
        lease.r = r[0]
        if r.kind != FB_SLOT:
            lease.data = inline_payload(r, at)
        elif self.leases >= self.max_leases:
            self.copies += 1
            lease.data = self.copy_slot(r, at)
        else:
            lease.at = at
            lease.consumer = self
            self.leases += 1
        if lease.data is not None:
            lease.at = <const unsigned char *> PyBytes_AS_STRING(lease.data)
        lease.held_since_ns = fb_now_ns()
        if lease.data is None:
            fb_rx_note(&self.rx, r.slot, lease.held_since_ns)
        return lease

    cdef object take(self, bint as_bytes):
        cdef fb_record r
        cdef const unsigned char *at
        cdef int got
        got = fb_rx_next(&self.rx, &r, &at)
        if got == 0:
            self.ended()
            got = fb_rx_next(&self.rx, &r, &at)  # it may have come with the end
            if got == 0:
                return None
        if got < 0:
            self.check()
        if not as_bytes:
            result = self.lease(&r, at)
        elif r.kind == FB_SLOT:
            result = self.copy_slot(&r, at)
        else:
            result = inline_payload(&r, at)
        fb_rx_publish(&self.rx)
        return result

    cdef object wait(self, timeout_ns, spin_ns, bint as_bytes):
        cdef int64_t until = NO_DEADLINE, left, window, began, spin_ns_max
        cdef int how
        self.check()
        result = self.take(as_bytes)
        if result is None:
            if timeout_ns is not None:
                until = moment(timeout_ns)
            spin_ns_max = self.spin_ns_max if spin_ns is None else spin_ns
            window = fb_rx_window(&self.rx, spin_ns_max)
            began = fb_now_ns()
            left = SLEEP_NS_MAX
            while True:
                if timeout_ns is not None:
                    left = until - fb_now_ns()
                    if left <= 0:
                        return None
                    left = min(left, SLEEP_NS_MAX)
                self.busy += 1
                with nogil:
                    how = fb_rx_wait(&self.rx, left, window if window < left else left)
                self.busy -= 1
                window = 0
                PyErr_CheckSignals()
                self.check()
                result = self.take(as_bytes)
                if result is not None:
                    break
                if how == FB_TIMED_OUT and not self._peer_may_live():
                    self.is_lost = True
            fb_rx_waited(&self.rx, fb_now_ns() - began, spin_ns_max)
        return result

    def wait_data(self, timeout_ns, spin_ns=None):
        cdef int64_t until, now, began, window, spin_ns_max
        self.check()
        if fb_rx_ready(&self.rx):
            return True
        until = moment(timeout_ns)
        now = began = fb_now_ns()
        if now >= until:
            return False
        spin_ns_max = self.spin_ns_max if spin_ns is None else min(spin_ns, self.spin_ns_max)
        window = fb_rx_window(&self.rx, spin_ns_max)
        while now < until and not fb_rx_ready(&self.rx):
            self.busy += 1
            with nogil:
                fb_rx_wait(&self.rx, min(until - now, SLEEP_NS_MAX), min(until - now, window))
            self.busy -= 1
            window = 0
            PyErr_CheckSignals()
            self.check()
            now = fb_now_ns()
        fb_rx_waited(&self.rx, now - began, spin_ns_max)
        return bool(fb_rx_ready(&self.rx))

    def receive_nowait(self):
        self.check()
        return self.take(False)

    def receive(self, timeout_ns=None, spin_ns=None):
        return self.wait(timeout_ns, spin_ns, False)

    def receive_bytes_nowait(self):
        self.check()
        return self.take(True)

    def receive_bytes(self, timeout_ns=None, spin_ns=None):
        return self.wait(timeout_ns, spin_ns, True)

    def receive_many(self, int limit):
        cdef fb_record r
        cdef const unsigned char *at
        cdef list taken = []
        self.check()
        while limit > 0 and fb_rx_next(&self.rx, &r, &at) == 1:
            taken.append(self.lease(&r, at))
            limit -= 1
        fb_rx_publish(&self.rx)
        if not taken and limit > 0:
            self.check()
            self.ended()
        return taken

    def take_records(self, int limit):
        cdef fb_record r
        cdef const unsigned char *at
        cdef list taken = []
        self.check()
        while limit > 0 and fb_rx_next(&self.rx, &r, &at) == 1:
            if r.kind != FB_SLOT:
                payload = inline_payload(&r, at)
            elif self.leases < self.max_leases:
                payload = self.lease(&r, at)
            else:
                self.copies += 1
                payload = self.copy_slot(&r, at)
            taken.append((
                r.lane, r.codec, r.seq, NO_DEADLINE_OBJECT if r.deadline_ns == NO_DEADLINE else r.deadline_ns,
                r.origin_ns, r.sent_ns, r.size_bytes, r.tag, r.kind, payload,
            ))
            limit -= 1
        fb_rx_publish(&self.rx)
        if not taken and limit > 0:
            self.check()
            self.ended()
        return taken

    def take_plain(self, int limit, dict trails, decode):
        return take_plain(self, limit, trails, decode)

    def grant(self, uint64_t n):
        self.check()
        if self.rx.g.window_items:
            raise LocalProtocolError(f"{self.name}: credit follows a window of {self.rx.g.window_items} items")
        self.rx.credit_seq += n
        store64(&consumer_of(self.rx.chan).credit_seq, self.rx.credit_seq, memory_order_release)
        fb_rx_wake(&self.rx, FB_WANT_CREDIT)

    def arm(self):
        self.check()
        return not self.is_lost and fb_rx_arm(&self.rx, FB_BY_EVENTFD)

    def disarm(self):
        self.check()
        store32(&consumer_of(self.rx.chan).data_wait, 0, memory_order_relaxed)

    def clear(self):
        self.disarm()
        fb_event_clear(self.data_fd)

    def fileno(self):
        self.check()
        return self.data_fd

    def add_counter(self, unsigned int index, uint64_t n=1):
        self.check()
        if index >= FB_COUNTERS:
            raise LocalProtocolError(f"{self.name}: counters go from 0 to {FB_COUNTERS - 1}, not {index}")
        self.rx.counter[index] += n
        store64(&consumer_of(self.rx.chan).counter[index], self.rx.counter[index], memory_order_release)

    def write_report(self, tuple counts):
        write_report(self, counts)

    def counter(self, unsigned int index):
        self.check()
        if index >= FB_COUNTERS:
            raise LocalProtocolError(f"{self.name}: counters go from 0 to {FB_COUNTERS - 1}, not {index}")
        return load64(&producer_of(self.rx.chan).counter[index], memory_order_acquire)

    def read_counters(self, unsigned int count=64):
        self.check()
        count = min(count, <unsigned int> FB_COUNTERS)
        return tuple([load64(&producer_of(self.rx.chan).counter[i], memory_order_acquire) for i in range(count)])

    @property
    def counters(self):
        return tuple([self.rx.counter[i] for i in range(FB_COUNTERS)])

    def wake_producer(self):
        self.check()
        fb_rx_wake(&self.rx, FB_WANT_CREDIT | FB_WANT_RING | FB_WANT_SLOTS | FB_WANT_ANY)

    def _peer_may_live(self):
        return True

    def peer_lost(self):
        self.is_lost = True
        self._rouse()

    def _rouse(self):
        """Wake a thread of this process that waits in `receive`."""
        if self.chan is not None and self.forks == fb_forks and self.busy:
            fb_futex_wake(&producer_of(self.rx.chan).data_seq)

    def _close(self):
        if self.is_closed:
            return
        self.leave()
        self.is_closed = True
        store_int(&self.rx.stop, 1, memory_order_relaxed)
        self._rouse()
        self.close_descriptors()

    @property
    def closed(self):
        return self.is_closed

    def _stats(self):
        return (self.rx.head_seq, self.leases, self.copies, self.rx.wakes, self.rx.returns_lost, self.rx.late_wakes)
