"""Every bound in one place, unit last; each entry says what happens at the limit."""

from __future__ import annotations

from typing import Final

# --- the text of a flow: beyond these `check` reports a finding -------------------------------------------------
FLOW_FILE_BYTES_MAX: Final = 8 * 1024 * 1024  # refused before it is read
PLAN_FILE_BYTES_MAX: Final = 256 * 1024 * 1024  # of a compiled plan; refused before it is read
YAML_DEPTH_MAX: Final = 32  # a deeper nesting is a finding; nothing below it is looked at
YAML_NODES_MAX: Final = 1_000_000  # counted with aliases expanded, so that an anchor bomb is a finding
FLOW_NODES_MAX: Final = 20_000
FLOW_ROUTES_MAX: Final = 100_000
FLOW_TOPICS_MAX: Final = 256  # patterns under `topics`: each route of the bus is held against them
FINDINGS_MAX: Final = 200  # the rest is counted in one closing finding
NAME_CHARACTERS_MAX: Final = 128

# --- queues: at the limit the route's policy decides --------------------------------------------------------------
QUEUE_ITEMS_DEFAULT: Final = 128
QUEUE_ITEMS_MAX: Final = 1_000_000
QUEUE_BYTES_DEFAULT: Final = 64 * 1024 * 1024
QUEUE_BYTES_MAX: Final = 64 * 1024**3

# --- scheduling ---------------------------------------------------------------------------------------------------
LANES: Final = 4
STARVATION_TURNS_MAX: Final = 16  # a lane passed over this often while it had work gets the next turn
SLICE_ITEMS_MAX: Final = 128
SLICE_NS_MAX: Final = 1_000_000  # ... and at most about this long: the cooperative quantum
SLICES_PER_DEADLINE: Final = 8  # a slice takes at most this part of what its first message has left
BULK_ITEMS: Final = 8  # of one slice that a node took without the loop; after so many it waits on the loop once
PAUSE_NS_MAX: Final = 2_000_000  # after a longer pause between messages a node waits on the loop, not for its ring
LOOK_NS_MAX: Final = 20_000  # of a wait for a ring that is spent looking; the rest of it sleeps
VIRTUAL_DEADLINE_NS: Final = 1_000_000_000  # work without a deadline is ordered as if it had this much time
OUTBOX_ITEMS_MAX: Final = 100_000  # what one synchronous call may emit before OperatorError

# --- the event bus ------------------------------------------------------------------------------------------------
TOPIC_CHARACTERS_MAX: Final = 256  # LocalProtocolError
TOPIC_TOKENS_MAX: Final = 16  # LocalProtocolError
TOPICS_REACH_MAX: Final = 65_536  # subscriptions of all cached topics together; likewise
TOPICS_CACHED_MAX: Final = 4_096  # all are forgotten, and looked up again when they come back
SUBSCRIPTIONS_MAX: Final = 65_536  # LocalProtocolError
REQUESTS_PENDING_MAX: Final = 65_536  # WouldBlock
REQUESTS_KEPT_MAX: Final = 4_096  # with an id, of one requester; the one not asked for the longest is forgotten
REQUESTS_KEPT_BYTES_MAX: Final = 16 * 1024 * 1024  # ... and the bytes of their outcomes
REQUEST_KEPT_NS: Final = 60 * 10**9  # how long its outcome is known, at least; then the same id is a new request
REQUEST_ATTEMPTS_MAX: Final = 4  # of one request; then its error is given
RETRY_BASE_NS: Final = 50_000_000  # before the second attempt, and twice as long before each further one
RETRY_SHARE: Final = 10  # of so many requests to a peer one may be made again; beyond that the error is given
RETRY_BURST: Final = 10  # ... and so many at once
RETRY_AFTER_MS_MAX: Final = 2**32 - 1  # told by a peer: RemoteProtocolError

# --- bus links: one process that uses the bus of another ----------------------------------------------------------
BUS_LINK_SUBSCRIPTIONS_MAX: Final = 4_096  # of one link; LocalProtocolError, RemoteProtocolError from a peer
BUS_LINK_TOPICS_MAX: Final = 4_096  # settings of topics made over one link; LocalProtocolError
BUS_LINK_CALLS_MAX: Final = 4_096  # publishes, requests ... of one link that are not answered yet; WouldBlock
BUS_LINK_BYTES_MAX: Final = 64 * 1024 * 1024  # ... and their payloads; WouldBlock, but one of any size goes
BUS_LINK_BODY_BYTES_MAX: Final = 64 * 1024 * 1024  # of one payload; EncodeError here, RemoteProtocolError from a peer
BUS_LINK_UNSENT_BYTES_MAX: Final = 128 * 1024 * 1024  # towards a client that does not read: its link is ended
BUS_LINK_WINDOW_ITEMS: Final = 256  # on the way to a queue that drops, beyond its capacity; then it queues at the host
BUS_LINK_WINDOW_BYTES: Final = 1024 * 1024  # ... and their bytes
BUS_LINK_LIMIT_NS: Final = 5_000_000  # how long credit that came back may stay untold to a publisher found without

# --- the control-plane header (RFC 8949 array) --------------------------------------------------------------------
HEADER_BYTES_MAX: Final = 4_096  # EncodeError here, DecodeError from a peer
BODY_BYTES_MAX: Final = 1024**3  # of one frame on a Unix socket: RemoteProtocolError; EncodeError here
STREAM_BYTES_HIGH: Final = 1024 * 1024  # a sender waits while more than this is unsent
STREAM_BYTES_LOW: Final = 256 * 1024  # ... until no more than this is
STREAM_READ_BYTES: Final = 64 * 1024  # of one read: larger ones are mapped anew each time, five times slower
CORKED_BYTES_MAX: Final = 64 * 1024  # of frames kept for one system call: when more are, they are written at once
STREAM_WRITE_BYTES: Final = 1024 * 1024  # of one turn: the rest is written in the next one, after others ran
STREAM_PARTS_MAX: Final = 64  # of one system call, below the kernel's IOV_MAX; the rest follows
REPORT_DELAY_S: Final = 0.025  # for which credit that a producer can do without is untold, where telling costs a frame
REPORT_SHARE: Final = 4  # ... until it is one part in so many of the capacity, or keeps a producer stopped
DESCRIPTORS_MAX: Final = 16  # passed with one frame: RemoteProtocolError from a peer, LocalProtocolError here

# --- sessions between machines ------------------------------------------------------------------------------------
GREETING_BYTES_MAX: Final = 32 * 1024  # of the header of HELLO and HELLO_ACK: EncodeError here, DecodeError from a peer
SESSION_SKIPPED_BYTES_MAX: Final = 4_096  # the body of a control frame; only one that is skipped has any
SESSION_STREAMS_MAX: Final = 1_024  # of one session: EncodeError here, DecodeError from a peer
SESSION_ACKS_MAX: Final = 128  # streams acknowledged by one frame; the others by the next one
SESSION_REPLAY_BYTES_MAX: Final = 2**40  # that one direction of a session may keep: EncodeError, DecodeError
NODE_BYTES_MAX: Final = 128  # of the name of a node: EncodeError here, DecodeError from a peer
LABEL_BYTES_MAX: Final = 256  # of the label of a session stream: EncodeError here, DecodeError from a peer
KEY_BYTES_MAX: Final = 32  # of the key of a session stream: EncodeError here, DecodeError from a peer
TOKEN_BYTES_MAX: Final = 8 * 1024  # of what proves an identity: EncodeError here, DecodeError from a peer
REASON_BYTES_MAX: Final = 256  # of a text that says why: cut here, DecodeError from a peer
CAPABILITIES_MAX: Final = 64  # told in a greeting: EncodeError here, DecodeError from a peer

REPLAY_BYTES_MAX: Final = 4 * 1024 * 1024  # of one direction of a stream, sent and not acknowledged: it waits
ACK_BYTES: Final = 256 * 1024  # received without telling the peer; then it is told at once
ACK_DELAY_S: Final = 0.025  # ... or after this with other bytes, and after twice as long without
SINGLES_MAX: Final = (
    128  # of one connection and direction, of messages on streams of their own; then their routes carry them
)
SINGLE_BYTES_MAX: Final = 64 * 1024  # of one with its frame; a larger one goes over its route, 0x603 from a peer
SINGLES_WINDOW: Final = 1_024  # numbers of a lane from the first unsettled one: the next waits, 0x606 from a peer
SETTLED_MAX: Final = 256  # told by one frame; the others by the next one
SINGLES_KEPT_BYTES_MAX: Final = 1024 * 1024  # of one route, until they are settled: the next one waits
SINGLES_UNSENT_BYTES_MAX: Final = 16 * 1024  # of a route with `latest`: then the newest waits where it can be replaced
HEARTBEAT_NS: Final = 250_000_000  # between two pings of a session that has streams
RESTS_PER_LEASE: Final = 3  # ... and of one that has none, in a lease: in 10 s of 30, as a NAT may forget after 30
GREASE_BEATS: Final = 16  # at one heartbeat of so many, by chance, goes a frame that peers skip: that stays tested
GREASE_BYTES_MAX: Final = 32  # of its body
SUSPECT_BEATS: Final = 3.5  # heartbeats without any packet; then another connection is dialled (ITU-T G.8013)
REST_SUSPECT_RESTS: Final = 1.5  # ... and of one without streams: its question after a rest has one to be answered in
LEASE_NS: Final = 30 * 10**9  # without any packet; then the session is over, and its streams are lost
SUCCEEDED_LEASE_MS: Final = 5_000  # ... or this, once a later process of the same name has come
DIAL_S: Final = 5.0  # from the first packet to the answered greeting: BrokenError
FRAME_S: Final = 10  # in which a peer is heard, and a frame that it began is not whole: it is closed (0x601)
CONTROL_FRAMES_PER_TURN_MAX: Final = 256  # of one connection; the rest waits for the next turn, after others ran
CONTROL_UNSENT_BYTES_HIGH: Final = 64 * 1024  # towards a peer that takes none: then no ping, pong or count is added
CONTROL_UNSENT_BYTES_MAX: Final = 1024 * 1024  # ... and no error: the connection is closed (0x603)
RESETS_PER_SECOND_MAX: Final = 200  # of QUIC streams, on one connection: it is closed (0x603)
RESETS_BURST_MAX: Final = 512  # ... beyond this many at once: all streams of both ends may fail together, both ways
HEARTBEAT_MS_MIN: Final = 20  # a peer that wants more pings than that gets these
GREETING_S: Final = 5.0  # a client that has not greeted by then is closed
REDIAL_S: Final = 0.9  # as DIAL_S when a session is to go on; another try follows
REDIAL_ROUND_TRIPS: Final = 6  # ... or so many round trips, when that is longer
REDIAL_PAUSE_S: Final = (0.2, 0.4)  # between two tries, at random: many who lost the same peer must not come at once
SESSIONS_MAX: Final = 1_024  # of one node: OverloadError
SESSIONS_PER_PEER_MAX: Final = 64  # ... with one peer: OverloadError
DIALERS_MAX: Final = 256  # nodes that one process has sessions with, or dials: OverloadError
MEETINGS_MAX: Final = 4_096  # streams that came before anybody expected them: the next one is refused
MEETINGS_PER_PEER_MAX: Final = 512  # ... of one session
MEETING_NS: Final = 30 * 10**9  # of waiting for the other end of a stream: BrokenError

# --- local sockets ------------------------------------------------------------------------------------------------
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path without its closing zero (unix(7)); LocalProtocolError
CONNECTIONS_MAX: Final = 1_024  # open ones of a listener; a further one is closed as soon as it is accepted
BACKLOG_MAX: Final = 512  # not yet accepted ones; whoever connects then waits until its time is over
ACCEPTS_PER_TURN_MAX: Final = 64  # the rest waits for the next turn of the loop, after others ran
ACCEPT_PAUSE_NS: Final = 100_000_000  # after an accept that found no descriptor or memory left
CONNECT_RETRY_NS: Final = 2_000_000  # between two tries while the backlog is full
LOCK_TRIES_MAX: Final = 25  # a lock that is held for longer than these tries belongs to somebody alive
LOCK_RETRY_NS: Final = 2_000_000  # between two of them

# --- sockets between machines -------------------------------------------------------------------------------------
UDP_BUFFER_BYTES: Final = 4 * 1024 * 1024  # asked of the kernel for each direction; what it does not hold is lost
UDP_DATAGRAMS_PER_TURN_MAX: Final = 32  # read at once; the rest waits for the next turn of the loop, after others ran
UDP_UNSENT_DATAGRAMS_MAX: Final = 256  # while the kernel takes no more; what goes beyond is lost, as on any network
UDP_UNSENT_BYTES_MAX: Final = 1024 * 1024  # ... where the loop counts them in bytes
QUIC_DRAIN_NS: Final = 1_000_000_000  # a listener that closes waits this long for its connections to end

# --- shared memory ------------------------------------------------------------------------------------------------
SHM_RING_BYTES_DEFAULT: Final = 256 * 1024  # stays in a second-level cache; a larger ring is a slower one
SHM_RING_BYTES_MAX: Final = 1024**3  # LocalProtocolError; RemoteProtocolError from a peer
SHM_INLINE_BYTES_DEFAULT: Final = 1_024  # a larger payload goes to a slot
SHM_WINDOW_ITEMS_DEFAULT: Final = 1_024  # WouldBlock
SHM_WINDOW_ITEMS_MAX: Final = 2**32  # LocalProtocolError
SHM_POOL_PORTS_MAX: Final = 64  # channels of one pool; then another pool is made
SHM_CLASSES_MAX: Final = 16  # sizes of slots in a pool; LocalProtocolError
SHM_CLASS_SLOTS_MAX: Final = 2**28 - 1  # LocalProtocolError
SHM_LISTED_SLOTS_MAX: Final = 65_536  # of one channel, when it is looked at from outside; the listing says "partial"
SHM_LISTED_RECORDS_MAX: Final = 65_536  # likewise, of the messages that wait
RING_LOOK_NS: Final = 250_000_000  # a wake-up of an event loop that was lost is found after so long, and counted
SHM_SLEEP_NS_MAX: Final = 100_000_000  # of one sleep; then the peer is looked at, and the sleep goes on

# --- payloads that leave their process ----------------------------------------------------------------------------
PAYLOAD_DEPTH_MAX: Final = 64  # containers within containers; EncodeError here, DecodeError from a peer
PAYLOAD_DECIMAL_CHARACTERS_MAX: Final = 1_024  # EncodeError here, DecodeError from a peer
PAYLOAD_ROWS_MAX: Final = 2**31 - 1  # of one batch; EncodeError here, DecodeError from a peer
PAYLOAD_SCHEMAS_MAX: Final = (
    64  # of one route; a batch of a further schema brings its own, RemoteProtocolError from a peer
)
PAYLOAD_SCHEMA_BYTES_MAX: Final = 1024 * 1024  # EncodeError here, RemoteProtocolError from a peer
PAYLOAD_VIEW_BYTES_MIN: Final = 4_096  # smaller bytes are copied, so that they do not hold the slot they came in
PAYLOAD_IN_PLACE_BYTES_MIN: Final = 262_144  # smaller batches are written aside and copied, which takes fewer calls

# --- reports ------------------------------------------------------------------------------------------------------
PATHS_MAX: Final = 1_000  # further paths are counted under one entry named "(others)"

# --- processes ----------------------------------------------------------------------------------------------------
WORKER_START_NS: Final = 30 * 10**9  # from its start until a worker is ready to run: FlowbridgeError naming it
WORKER_STOP_NS: Final = 10**9  # a worker told to stop, then one told by SIGTERM, gets this long before the next step
WORKER_REPORT_NS: Final = 250_000_000  # between two reports of a worker, or more when writing one takes long
SPANS_KEPT_MAX: Final = 4_096  # of a part until its next report; then they are dropped, and the log says how many
SPAN_TEXT_CHARACTERS_MAX: Final = 1_024  # of an error; what is beyond is cut
NODE_HOSTS_MAX: Final = 64  # hosts that a node serves at once; a further one is refused (0x303)
PART_DEPTH_MAX: Final = (
    16  # containers within containers of what a host and a part tell each other; RemoteProtocolError
)
PART_ENDS_MAX: Final = 16_384  # of routes that a host gives a part before it opens them; RemoteProtocolError
PART_UNSENT_BYTES_MAX: Final = 256 * 1024 * 1024  # towards a host that takes nothing: the part ends, OverloadError
ROUTE_CHARACTERS_MAX: Final = 1_024  # of its id, above what names of nodes and ports add up to; RemoteProtocolError
TICKET_BYTES_MAX: Final = 4_096  # of an end of a route that travels in words; RemoteProtocolError
PLAN_DEPTH_MAX: Final = 64  # containers within containers of a plan document; PlanError
SETTLE_NS: Final = 10**9  # at the end, for the last counts of routes between processes; the rest is `lost`
SETTLE_PAUSE_NS: Final = 1_000_000  # between two looks at them

# --- certificates -------------------------------------------------------------------------------------------------
CERTIFICATE_DAYS_MAX: Final = 825  # of one that `certs new` makes; WrongUse
CERTIFICATE_SOON_NS: Final = 7 * 24 * 3600 * 10**9  # one that ends within this time is warned of
CERTIFICATE_FILE_BYTES_MAX: Final = 1024 * 1024  # of a PEM file; ResourceError

# --- time ---------------------------------------------------------------------------------------------------------
DURATION_NS_MAX: Final = 366 * 24 * 3600 * 10**9
DRAIN_NS_DEFAULT: Final = 10 * 10**9  # a drain that takes longer becomes an abort, and the report says so

# --- QUIC ---------------------------------------------------------------------------------------------------------
QUIC_STREAM_WINDOW_BYTES: Final = 1024 * 1024  # unconsumed bytes of one stream; beyond it the peer is cut off
QUIC_CONNECTION_WINDOW_BYTES: Final = 32 * 1024 * 1024  # ... of all: up to 31 consumers that stand still stop no other
QUIC_WINDOW_BYTES_MAX: Final = 1024**3  # of either; LocalProtocolError
QUIC_STREAMS_MAX: Final = 1_024  # of each kind that the peer has open at once; beyond it the peer is cut off
QUIC_DATAGRAM_BYTES: Final = 1_232  # a UDP payload that every IPv6 path carries
QUIC_DATAGRAM_BYTES_LOCAL: Final = 16_300  # ... within a machine, where its interface takes so many
QUIC_DATAGRAM_BYTES_MIN: Final = 1_200  # RFC 9000, section 14; LocalProtocolError
QUIC_DATAGRAM_BYTES_MAX: Final = 65_000  # LocalProtocolError; an engine that cannot send so many sends smaller ones
QUIC_DATAGRAMS_WAITING_MAX: Final = 64  # unreliable ones of a connection; `send_datagram` says False
TOKEN_S_MAX: Final = 15 * 60  # how long a token may be good for; one that is good for longer is refused
TOKEN_LEEWAY_S: Final = 30  # how much later the clock of who signs a token may be; then it is not valid yet
TOKEN_KEYS_MAX: Final = 32  # of those who may sign tokens for a node; LocalProtocolError
TOKEN_RENEW_S: Final = 60  # before a token expires a client begins to look for a new one ...
TOKEN_LOOK_S: Final = 1  # ... so often
TOKEN_FILE_TOKENS_MAX: Final = 256  # read of a file; what stands behind them is not seen
TOKENS_MAX: Final = 4_096  # in use at a node and not expired; OverloadError
QUIC_STREAMS_REMEMBERED: Final = 4_096  # of a qh3 connection, that were ended or stopped; then the oldest is as new
QUIC_IDLE_NS: Final = 30 * 10**9  # without a packet of the peer: the connection is over
QUIC_PROBE_NS: Final = 250_000_000  # between two probes of a peer that answers none, unless its round trip is longer
QUIC_CONNECTIONS_MAX: Final = 1_024  # of one acceptor; a further one is refused
QUIC_CONNECTIONS_PER_HOST_MAX: Final = 32  # ... and from one address
QUIC_HALF_OPEN_MAX: Final = 64  # handshakes under way; then whoever comes has to show that its address is its own
QUIC_HANDSHAKE_NS: Final = 5 * 10**9  # a handshake that takes longer is forgotten
QUIC_HANDSHAKES_PER_SECOND_MAX: Final = 200  # of one acceptor; more are ignored, and come again by themselves
QUIC_STATELESS_PER_SECOND_MAX: Final = 100  # resets to unknown connections, refusals; more are not answered
QUIC_ANSWERS_WAITING_MAX: Final = 1_024  # packets of an acceptor that nobody has fetched yet; more are dropped
QUIC_REASON_CHARACTERS_MAX: Final = 256  # of a peer's reason for closing; the rest is cut off
QUIC_KEY_PACKETS_MAX: Final = 2**23  # sent with one key (RFC 9001, section 6.6); then the key is changed
QUIC_KEY_NS_MAX: Final = 3600 * 10**9  # ... or after this long
QUIC_CHAIN_CERTIFICATES_MAX: Final = 6  # that a peer shows; more are refused

assert QUEUE_ITEMS_DEFAULT <= QUEUE_ITEMS_MAX
assert QUEUE_BYTES_DEFAULT <= QUEUE_BYTES_MAX
assert HEADER_BYTES_MAX < BODY_BYTES_MAX
assert STREAM_BYTES_LOW < STREAM_BYTES_HIGH
assert BUS_LINK_BODY_BYTES_MAX + STREAM_BYTES_HIGH < BUS_LINK_UNSENT_BYTES_MAX
assert SLICE_ITEMS_MAX <= QUEUE_ITEMS_MAX
assert QUIC_STREAM_WINDOW_BYTES <= QUIC_CONNECTION_WINDOW_BYTES <= QUIC_WINDOW_BYTES_MAX
