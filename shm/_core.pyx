# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, binding=False
"""The native core of the shared-memory port: mappings, the slot pool, and both ends of a channel.

What every message costs is here; what a channel costs once (segments, descriptors, liveness) is Python.
The layout and the protocol are described in `flowbridge.shm.port`, the fields in ring.h.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_FAILED, MAP_POPULATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close

import os

from flowbridge.envelope import NO_DEADLINE as _NO_DEADLINE
from flowbridge.errors import (
    BlockReason,
    BrokenError,
    ClosedError,
    EndOfStream,
    LocalProtocolError,
    RemoteProtocolError,
    WouldBlock,
)
from flowbridge.limits import SHM_SLEEP_NS_MAX

cdef extern from "slots.h" nogil:
    enum:
        FB_COUNTERS, FB_PORTS, FB_CLASSES, FB_MAGIC, FB_MAJOR, FB_MINOR, FB_ENDIAN, FB_RING, FB_ALIGN, FB_NAME_BYTES
        FB_INLINE, FB_SLOT, FB_CTRL, FB_READY, FB_ABANDONED, FB_CLOSED, FB_POISONED, FB_FREE, FB_LIVE, FB_DETACHED
        FB_OK, FB_NO_CREDIT, FB_NO_RING, FB_NO_SLOT, FB_GONE, FB_BAD_PEER, FB_WOKEN, FB_TIMED_OUT, FB_INTERRUPTED
        FB_BY_FUTEX, FB_BY_EVENTFD, FB_WANT_CREDIT, FB_WANT_RING, FB_WANT_SLOTS, FB_WANT_ANY
    const uint32_t FB_NOWHERE
    ctypedef struct atomic_u32 "_Atomic uint32_t":
        pass
    ctypedef struct atomic_u64 "_Atomic uint64_t":
        pass
    ctypedef struct atomic_int "_Atomic int":
        pass
    ctypedef enum memory_order:
        memory_order_relaxed, memory_order_acquire, memory_order_release, memory_order_acq_rel, memory_order_seq_cst
    uint32_t load32 "atomic_load_explicit"(atomic_u32 *, memory_order)
    void store32 "atomic_store_explicit"(atomic_u32 *, uint32_t, memory_order)
    bint cas32 "atomic_compare_exchange_strong"(atomic_u32 *, uint32_t *, uint32_t)
    uint64_t load64 "atomic_load_explicit"(atomic_u64 *, memory_order)
    void store64 "atomic_store_explicit"(atomic_u64 *, uint64_t, memory_order)
    void store_int "atomic_store_explicit"(atomic_int *, int, memory_order)
    void fence "atomic_thread_fence"(memory_order)

    struct fb_record:
        uint8_t kind, lane
        uint16_t codec
        uint32_t slot
        uint64_t length, seq
        int64_t deadline_ns, origin_ns, sent_ns
        uint64_t size_bytes
        uint32_t tag, gen
    struct fb_class_shape:
        uint64_t slot_bytes, offset
        uint32_t count
    struct fb_geometry:
        uint64_t magic
        uint16_t major, minor
        uint32_t endian
        uint64_t total_bytes
        uint8_t uuid[16]
        uint32_t creator_pid, flags
        uint64_t creator_start, ring_offset, ring_bytes, completion_offset, completion_items
        uint64_t pool_bytes, window_items
        uint32_t inline_bytes_max, classes, high_permille, low_permille
        uint64_t lease_offset
        fb_class_shape shape[16]
        uint32_t crc32c
    struct fb_super:
        fb_geometry geometry
        atomic_u32 state
        atomic_u64 epoch
        uint64_t pool_inode
        char name[128]
    struct fb_producer_page:
        atomic_u64 tail
        atomic_u64 tail_seq
        atomic_u32 data_seq
        atomic_u64 completion_head
        atomic_u32 space_wait
        atomic_u64 counter[64]
    struct fb_consumer_page:
        atomic_u64 head
        atomic_u64 head_seq
        atomic_u64 credit_seq
        atomic_u32 data_wait
        atomic_u32 space_seq
        atomic_u64 completion_tail
        atomic_u32 attach
        uint32_t pid
        uint64_t start
        atomic_u64 counter[64]
    struct fb_slots:
        uint64_t slot_bytes
        uint32_t count, free_count, reserved_count
        uint8_t *reserved
    struct fb_pool:
        unsigned char *base
        uint32_t classes
        fb_slots of[16]
        fb_tx *tx[64]
        uint64_t bogus_returns
        int fd
    struct fb_tx:
        unsigned char *chan
        fb_geometry g
        fb_pool *pool
        uint64_t tail, tail_seq, published, head, head_seq, credit_seq, completion_head, epoch
        uint64_t high_items, low_items, high_bytes, low_bytes, wakes, highs, need_bytes, need_slot
        uint64_t blocked[4]
        uint64_t counter[64]
        const char *problem
        uint32_t bit, held, want
        int above, data_fd
        atomic_int stop
    struct fb_rx:
        unsigned char *chan
        const unsigned char *pool
        fb_geometry g
        uint64_t head, head_seq, published, tail, completion_tail, credit_seq, epoch, low_items, low_bytes
        uint64_t returns_lost, wakes, late_wakes
        uint64_t counter[64]
        const char *problem
        int space_fd
        atomic_int stop

    uint32_t fb_forks
    int fb_watch_forks()
    fb_super *super_of "fb_super"(unsigned char *)
    fb_producer_page *producer_of "fb_producer"(unsigned char *)
    fb_consumer_page *consumer_of "fb_consumer"(unsigned char *)
    int64_t fb_now_ns()
    uint32_t fb_crc32c(const void *, size_t)
    const char *fb_geometry_problem(const fb_geometry *, uint64_t, uint64_t)
    void fb_futex_wake(atomic_u32 *)
    int fb_futex_wait(atomic_u32 *, uint32_t, int64_t)
    void fb_event_write(int)
    void fb_event_clear(int)
    int fb_rx_next(fb_rx *, fb_record *, const unsigned char **)
    void fb_rx_publish(fb_rx *)
    void fb_rx_wake(fb_rx *, uint32_t)
    void fb_rx_return(fb_rx *, uint32_t, uint32_t)
    void fb_rx_place_leases(fb_rx *)
    void fb_rx_note(fb_rx *, uint32_t, int64_t)
    bint fb_rx_current(fb_rx *)
    bint fb_rx_ready(fb_rx *)
    bint fb_rx_arm(fb_rx *, uint32_t)
    int fb_rx_wait(fb_rx *, int64_t, int64_t)
    int64_t fb_rx_window(fb_rx *, int64_t)
    void fb_rx_waited(fb_rx *, int64_t, int64_t)
    int fb_pool_init(fb_pool *, unsigned char *, const fb_geometry *)
    void fb_pool_free(fb_pool *)
    void fb_pool_drain(fb_pool *)
    uint32_t fb_pool_take(fb_pool *, uint64_t)
    bint fb_pool_never(const fb_pool *, uint64_t)
    uint64_t fb_pool_largest(const fb_pool *)
    void fb_slot_free(fb_pool *, uint32_t)
    unsigned char *fb_slot_at(fb_pool *, uint32_t)
    uint32_t fb_slot_gen(fb_pool *, uint32_t)
    int fb_tx_drain(fb_tx *)
    uint64_t fb_tx_reclaim(fb_tx *)
    int fb_tx_refresh(fb_tx *)
    int fb_tx_admit(fb_tx *, uint64_t)
    int fb_tx_blocked(fb_tx *, int, uint64_t, uint64_t)
    void fb_tx_stage(fb_tx *, const fb_record *, const void *)
    void fb_tx_publish(fb_tx *)
    void fb_tx_wake(fb_tx *)
    int fb_tx_watermark(fb_tx *)
    uint32_t fb_tx_above_low(const fb_tx *)
    bint fb_tx_arm(fb_tx *, uint32_t, uint32_t)

cdef int64_t NO_DEADLINE = 0x7FFFFFFFFFFFFFFF
cdef object NO_DEADLINE_OBJECT = _NO_DEADLINE
cdef int64_t SLEEP_NS_MAX = SHM_SLEEP_NS_MAX
cdef enum:
    WITHOUT_GIL_BYTES = 65536  # a copy of this size takes longer than letting go of the interpreter

COUNTERS = FB_COUNTERS
PORTS_PER_POOL = FB_PORTS
KIND_INLINE, KIND_SLOT, KIND_CTRL = FB_INLINE, FB_SLOT, FB_CTRL
SENT, NO_CREDIT, NO_RING, NO_SLOT = FB_OK, FB_NO_CREDIT, FB_NO_RING, FB_NO_SLOT
REASONS = (BlockReason.EMPTY, BlockReason.CREDIT_ITEMS, BlockReason.RING, BlockReason.SLOTS)

if _NO_DEADLINE != NO_DEADLINE:
    raise ImportError("flowbridge.envelope.NO_DEADLINE is not what the extension was built for")
if fb_watch_forks() != 0:
    raise ImportError("pthread_atfork: out of memory")


@cython.no_gc
cdef class Mapping:
    """A shared mapping of a descriptor, unmapped with its last reference. The descriptor itself is not kept."""

    cdef unsigned char *base
    cdef readonly size_t nbytes
    cdef readonly bint writable

    def __cinit__(self, int fd, size_t nbytes, bint writable, bint populate=False):
        cdef int protection = PROT_READ | PROT_WRITE if writable else PROT_READ
        cdef void *got
        with nogil:
            got = mmap(NULL, nbytes, protection, MAP_SHARED | (MAP_POPULATE if populate else 0), fd, 0)
        if got == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.base = <unsigned char *> got
        self.nbytes = nbytes
        self.writable = writable

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.nbytes)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.base, self.nbytes, not self.writable, flags)


cdef bytes copy_out(const unsigned char *at, uint64_t length):
    """Private bytes; a large copy lets other threads run."""
    cdef bytes data = PyBytes_FromStringAndSize(<const char *> at if length < WITHOUT_GIL_BYTES else NULL, length)
    cdef char *to = PyBytes_AS_STRING(data)
    if length >= WITHOUT_GIL_BYTES:
        with nogil:
            memcpy(to, at, length)
    return data


cdef object forked_error(str name):
    return ClosedError(f"{name}: this handle belongs to the process that made it, not to its child")


cdef int64_t moment(timeout_ns) except? -1:
    """When a time-out that starts now is over."""
    cdef int64_t now = fb_now_ns()
    if timeout_ns > NO_DEADLINE - now:
        return NO_DEADLINE
    return now if timeout_ns <= 0 else now + <int64_t> timeout_ns


include "pool.pxi"
include "producer.pxi"
include "loan.pxi"
include "consumer.pxi"
include "plain.pxi"
