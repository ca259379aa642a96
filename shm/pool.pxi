# The slot pool: whose slots they are, and a message for several consumers at once.


cdef class PoolCore:
    """The books of a slot pool, which may serve several channels; `mapping` is None for a pool without slots."""

    cdef fb_pool pool
    cdef fb_geometry shape
    cdef Mapping mapping
    cdef list lingering

    def __cinit__(self, Mapping mapping, classes):
        cdef uint64_t offset = 0
        cdef uint32_t i = 0
        memset(&self.shape, 0, sizeof(fb_geometry))
        for slot_bytes, count in classes:
            self.shape.shape[i].slot_bytes = slot_bytes
            self.shape.shape[i].count = count
            self.shape.shape[i].offset = offset
            offset += self.shape.shape[i].slot_bytes * self.shape.shape[i].count
            i += 1
        self.shape.classes = i
        self.shape.pool_bytes = offset
        if mapping is None and offset or mapping is not None and mapping.nbytes < offset:
            raise LocalProtocolError(f"pool: the mapping is shorter than the {offset} bytes of its slots")
        self.mapping = mapping
        self.lingering = []
        if fb_pool_init(&self.pool, NULL if mapping is None else mapping.base, &self.shape) != 0:
            raise MemoryError

    def __dealloc__(self):
        fb_pool_free(&self.pool)

    @property
    def bogus_returns(self):
        return self.pool.bogus_returns

    @property
    def free_slots(self):
        self.settle()
        return tuple([self.pool.of[i].free_count for i in range(self.pool.classes)])

    cdef void settle(self):
        """Drain the returns, and let go of closed producers whose consumers have given everything back."""
        fb_pool_drain(&self.pool)
        if self.lingering:
            for producer in [p for p in self.lingering if (<ProducerCore> p).tx.held == 0]:
                self.lingering.remove(producer)
                (<ProducerCore> producer).detach()

    def try_fan_send(self, list producers, payload, uint8_t lane=0, uint16_t codec=0, int64_t seq=-1,
                     int64_t deadline_ns=0x7FFFFFFFFFFFFFFF, int64_t origin_ns=0, int64_t sent_ns=0,
                     uint64_t size_bytes=0, uint32_t tag=0):
        cdef fb_record r
        cdef Py_buffer view
        cdef ProducerCore p
        cdef uint64_t ring_bytes
        cdef uint32_t slot
        cdef int code
        if len(set(map(id, producers))) != len(producers):
            raise LocalProtocolError("fan_send: a producer is named twice")
        for p in producers:
            p.check()
            if p.owner is not self:
                raise LocalProtocolError(f"fan_send: {p.name} is of another pool")
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        try:
            fill(&r, lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, FB_INLINE)
            r.length = view.len
            ring_bytes = r.length
            for p in producers:
                if r.length > p.tx.g.inline_bytes_max:
                    r.kind = FB_SLOT
                    ring_bytes = 0
                    p.must_fit(r.length)
            code = self.admit_all(producers, ring_bytes)
            if code != FB_OK:
                return code
            if r.kind == FB_SLOT and producers:
                slot = fb_pool_take(&self.pool, r.length)
                if slot == FB_NOWHERE:
                    return fb_tx_blocked(&(<ProducerCore> producers[0]).tx, FB_NO_SLOT, FB_ALIGN, r.length)
                r.slot = slot
                r.gen = fb_slot_gen(&self.pool, slot)
                copy_in(fb_slot_at(&self.pool, slot), &view)
                try:
                    code = self.admit_all(producers, 0)  # the copy may have let another thread send
                except BaseException:
                    fb_slot_free(&self.pool, slot)
                    raise
                if code != FB_OK:
                    fb_slot_free(&self.pool, slot)
                    return code
            for p in producers:
                if seq < 0:
                    r.seq = p.tx.tail_seq
                fb_tx_stage(&p.tx, &r, NULL if r.kind == FB_SLOT else view.buf)
        finally:
            PyBuffer_Release(&view)
        for p in producers:
            fb_tx_publish(&p.tx)
        for p in producers:
            p.notice()
        return 0

    cdef int admit_all(self, list producers, uint64_t ring_bytes) except -1:
        cdef ProducerCore p
        cdef int code
        for p in producers:
            p.check()
            code = FB_GONE if p.is_lost else fb_tx_admit(&p.tx, ring_bytes)
            if code < 0:
                p.refuse(code)
            if code:
                return code
        return 0


cdef inline void fill(fb_record *r, uint8_t lane, uint16_t codec, int64_t seq, int64_t deadline_ns, int64_t origin_ns,
                      int64_t sent_ns, uint64_t size_bytes, uint32_t tag, uint8_t kind) noexcept:
    r.kind = kind
    r.lane = lane
    r.codec = codec
    r.slot = 0
    r.length = 0
    r.seq = <uint64_t> seq
    r.deadline_ns = deadline_ns
    r.origin_ns = origin_ns
    r.sent_ns = sent_ns
    r.size_bytes = size_bytes
    r.tag = tag
    r.gen = 0


cdef inline void copy_in(unsigned char *to, Py_buffer *view) noexcept:
    if view.len >= WITHOUT_GIL_BYTES:
        with nogil:
            memcpy(to, view.buf, view.len)
    else:
        memcpy(to, view.buf, view.len)
