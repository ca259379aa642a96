# The loan: a slot while its sender fills it.


@cython.no_gc_clear
cdef class Loan:
    """A slot to be filled by the caller: writable buffer, then `commit` or `abort`; dropped means aborted."""

    cdef ProducerCore producer
    cdef unsigned char *at
    cdef readonly uint64_t nbytes
    cdef uint32_t slot
    cdef int exports

    def __init__(self):
        raise TypeError("a Loan comes from ShmProducer.loan")

    def __len__(self):
        return self.nbytes

    def __dealloc__(self):
        if self.producer is not None and self.producer.forks == fb_forks:
            fb_slot_free(self.producer.tx.pool, self.slot)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.producer is None:
            raise BufferError("the loan is committed or aborted")
        PyBuffer_FillInfo(view, self, self.at, self.nbytes, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    cdef int unused(self) except -1:
        if self.producer is None:
            raise LocalProtocolError("a loan is committed or aborted once")
        if self.exports:
            raise BufferError(f"{self.producer.name}: the loan still has {self.exports} views; release them first")
        return 0

    def commit(self, nbytes=None, uint8_t lane=0, uint16_t codec=0, int64_t seq=-1,
               int64_t deadline_ns=0x7FFFFFFFFFFFFFFF, int64_t origin_ns=0, int64_t sent_ns=0,
               uint64_t size_bytes=0, uint32_t tag=0):
        cdef fb_record r
        cdef ProducerCore p = self.producer
        cdef int code
        self.unused()
        p.check()
        if p.is_lost:
            p.refuse(FB_GONE)
        fill(&r, lane, codec, seq, deadline_ns, origin_ns, sent_ns, size_bytes, tag, FB_SLOT)
        r.length = self.nbytes if nbytes is None else nbytes
        if r.length > self.nbytes:
            raise LocalProtocolError(f"{p.name}: the loan has {self.nbytes} bytes, {r.length} were committed")
        code = fb_tx_admit(&p.tx, 0)
        if code < 0:
            p.refuse(code)
        if code:
            raise WouldBlock(REASONS[code], p.name)
        r.slot = self.slot
        r.gen = fb_slot_gen(p.tx.pool, self.slot)
        if seq < 0:
            r.seq = p.tx.tail_seq
        self.producer = None
        fb_tx_stage(&p.tx, &r, NULL)
        fb_tx_publish(&p.tx)
        p.notice()

    def abort(self):
        self.unused()
        p = self.producer
        self.producer = None
        if (<ProducerCore> p).forks == fb_forks:
            fb_slot_free((<ProducerCore> p).tx.pool, self.slot)
