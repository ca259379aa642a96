# Messages that need nothing beside their record, from envelopes to the ring and back without a tuple between.

from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject

from flowbridge.envelope import Envelope as _Envelope, Priority as _Priority
from flowbridge.errors import CodecError, FlowbridgeError

cdef object Envelope = _Envelope
cdef tuple LANES = tuple(_Priority)
cdef enum:
    RAW = 0  # as in flowbridge.codec.payload
    TREE = 1


cdef bint describe(object envelope, fb_record *r, int64_t sent_ns, dict trails) except -1:
    """Everything of a record but its payload; False for a message that takes more than that."""
    cdef PyObject *number
    cdef int64_t seq, deadline_ns, origin_ns, size_bytes
    if envelope.trace is not None or envelope.headers is not None:
        return False
    trail = envelope.trail
    r.tag = 0
    if trail is not None:
        number = PyDict_GetItem(trails, trail)
        if number == NULL:
            return False
        r.tag = <object> number
    try:
        seq, deadline_ns, origin_ns = envelope.seq, envelope.deadline_ns, envelope.origin_ns
        size_bytes = envelope.size_bytes
        if sent_ns < 0:
            sent_ns = envelope.sent_ns
        r.lane = envelope.priority
    except (OverflowError, TypeError):
        return False
    if (seq | deadline_ns | origin_ns | size_bytes | sent_ns) < 0:
        return False
    r.kind, r.slot, r.gen = FB_INLINE, 0, 0
    r.seq, r.size_bytes = <uint64_t> seq, <uint64_t> size_bytes
    r.deadline_ns, r.origin_ns, r.sent_ns = deadline_ns, origin_ns, sent_ns
    return True


cdef tuple send_plain(ProducerCore p, object envelopes, int lane, int64_t items, int64_t size_bytes, int64_t now_ns,
                      int64_t sent_ns, dict trails, object encode, unsigned int closing):
    cdef fb_record r
    cdef int64_t count = 0, left = size_bytes
    cdef object data = None, kind
    if p.is_closed or p.is_lost or p.forks != fb_forks:
        return 0, 0, None
    if closing < FB_COUNTERS and load64(&consumer_of(p.tx.chan).counter[closing], memory_order_acquire) != 0:
        return 0, 0, None
    try:
        for envelope in envelopes:
            data = None
            if count >= items or not describe(envelope, &r, sent_ns, trails):
                break
            if r.lane != lane or r.deadline_ns <= now_ns or <int64_t> r.size_bytes > left:
                break
            payload = envelope.payload
            kind = type(payload)
            r.codec = RAW
            if kind is dict or kind is list or kind is str:
                data = payload = encode(payload)
                r.codec = TREE
            elif kind is not bytes:
                break
            if PyBytes_GET_SIZE(payload) > <Py_ssize_t> p.tx.g.inline_bytes_max or p.put(payload, &r) != 0:
                break
            data = None
            count += 1
            left -= <int64_t> r.size_bytes
    except (FlowbridgeError, TypeError, ValueError):
        data = None  # whoever sends the rest meets it again, and tells
    finally:
        if count and not p.is_closed:
            fb_tx_publish(&p.tx)
            p.notice()
    return count, size_bytes - left, data


cdef list take_plain(ConsumerCore c, int limit, dict trails, object decode):
    cdef fb_record r
    cdef const unsigned char *at
    cdef uint64_t head
    cdef PyObject *found
    cdef list taken = []
    cdef object payload, trail, deadline
    c.check()
    while limit > 0:
        head = c.rx.head
        if fb_rx_next(&c.rx, &r, &at) != 1:
            break
        found = NULL
        if r.tag and r.tag <= 0xFFFF:
            found = PyDict_GetItem(trails, <object> r.tag)
        if (
            r.kind != FB_INLINE or r.codec > TREE or r.lane >= 4 or (r.tag != 0 and found == NULL)
            or (<int64_t> (r.seq | r.size_bytes) | r.deadline_ns | r.origin_ns | r.sent_ns) < 0
        ):
            c.rx.head = head
            c.rx.head_seq -= 1
            break
        payload = inline_payload(&r, at)
        if r.codec == TREE:
            try:
                payload = decode(payload)
            except CodecError:
                c.rx.head = head
                c.rx.head_seq -= 1
                break
        trail = None if found == NULL else <object> found
        deadline = NO_DEADLINE_OBJECT if r.deadline_ns == NO_DEADLINE else r.deadline_ns
        taken.append(Envelope(
            payload, LANES[r.lane], deadline, r.origin_ns, r.sent_ns, r.size_bytes, r.seq, trail
        ))
        limit -= 1
    fb_rx_publish(&c.rx)
    return taken


cdef tuple newer_report(ProducerCore p, unsigned int count):
    cdef atomic_u64 *counter
    cdef uint64_t done
    if p.is_closed:
        return None
    p.check()
    counter = consumer_of(p.tx.chan).counter
    done = load64(&counter[count + 1], memory_order_acquire)
    if done == p.reports:
        return None
    found = tuple([load64(&counter[i], memory_order_acquire) for i in range(count)])
    if load64(&counter[count], memory_order_acquire) != done:
        return None
    p.reports = done
    return found


cdef int write_report(ConsumerCore c, tuple counts) except -1:
    cdef uint64_t mine[64]
    cdef unsigned int i, count = len(counts)
    cdef atomic_u64 *counter
    c.check()
    if count > FB_COUNTERS - 2:
        raise LocalProtocolError(f"{c.name}: a report has at most {FB_COUNTERS - 2} counts, not {count}")
    for i in range(count):
        mine[i] = counts[i]
    counter = consumer_of(c.rx.chan).counter
    c.rx.counter[count] += 1
    store64(&counter[count], c.rx.counter[count], memory_order_release)
    for i in range(count):
        if mine[i] != c.rx.counter[i]:
            c.rx.counter[i] = mine[i]
            store64(&counter[i], mine[i], memory_order_release)
    c.rx.counter[count + 1] += 1
    store64(&counter[count + 1], c.rx.counter[count + 1], memory_order_release)
    fb_rx_wake(&c.rx, FB_WANT_CREDIT | FB_WANT_RING | FB_WANT_SLOTS | FB_WANT_ANY)
    return 0
