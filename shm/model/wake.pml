/* The wake-up protocol of ring.h (fb_tx_publish, fb_tx_wake, fb_rx_arm, fb_rx_wait) on memory like that of x86.
 *
 * Each side has a store buffer in order, which empties at any moment: loads overtake earlier stores of the same side,
 * as x86-TSO allows (Sewell et al., "x86-TSO", CACM 53/7, 2010). Locked instructions and system calls empty it. The
 * consumer's side for space is the mirror image of this one.
 *
 * Compile-time switches:
 *   FENCE    the full fences, of the producer after its publish and of the consumer after arming
 *   EVENTFD  sleep on an eventfd instead of a futex
 *   KILL     the producer may be killed between any two steps, also between its publish and its wake
 *   BOUNDED  a sleep ends after a while by itself, and then the peer is looked at
 *
 * What is proved, for all interleavings of MESSAGES messages:
 *   FENCE [EVENTFD]                     the consumer takes all messages: nobody sleeps beside a published one
 *   FENCE KILL BOUNDED [EVENTFD]        it takes what was published, then learns that the producer is dead
 * and, so that the model can be seen to bite, found wrong (an invalid end state: both sides stand still):
 *   [EVENTFD]                           without fences a wake-up is lost
 *   FENCE KILL                          without bounded sleeps the consumer of a killed producer sleeps for ever
 *
 * Run all of it with `make model`, or one:
 *   spin -DFENCE -a wake.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan
 */

#define MESSAGES 3

#define TAIL 0
#define WAIT 1

byte mem[2];
byte data_seq; /* only changed by locked instructions */
byte event;    /* the eventfd's counter, as far as it matters: readable or not */
bool asleep, woken;
bool killed;
bool producer_gone; /* what a look at the peer finds */
byte taken;

chan of_producer = [2] of { byte, byte };
chan of_consumer = [2] of { byte, byte };

#define store(buffer, where, what) buffer!where, what
#define drained(buffer) empty(buffer)

#ifdef FENCE
#define fence(buffer) drained(buffer)
#else
#define fence(buffer) skip
#endif

proctype flush(chan buffer) {
    byte where, what;
end:
    do
    :: atomic { buffer?where, what -> mem[where] = what }
    od
}

proctype producer() {
    byte message, wait;
#ifdef KILL
    {
#endif
    do
    :: message < MESSAGES ->
        message++;
        store(of_producer, TAIL, message);
        fence(of_producer);
        wait = mem[WAIT];
        if
        :: wait == 0
        :: else ->
            atomic { drained(of_producer) -> wait = mem[WAIT]; mem[WAIT] = 0 } /* xchg */
            if
            :: wait == 0
            :: else ->
#ifdef EVENTFD
                event = 1
#else
                data_seq++;
                if
                :: atomic { asleep -> woken = true }
                :: !asleep
                fi
#endif
            fi
        fi
    :: message == MESSAGES -> break
    od
#ifdef KILL
    } unless { killed };
    drained(of_producer); /* what a dead process has stored still arrives */
    producer_gone = true
#endif
}

proctype consumer() {
    byte tail, seen;
    do
    :: taken == MESSAGES -> break
    :: else ->
        tail = mem[TAIL];
        if
        :: tail != taken -> taken++
        :: else ->
            seen = data_seq;
            store(of_consumer, WAIT, 1);
            fence(of_consumer);
            tail = mem[TAIL];
            if
            :: tail != taken -> store(of_consumer, WAIT, 0)
            :: else ->
                drained(of_consumer); /* the system call */
#ifdef EVENTFD
                if
                :: event != 0
#ifdef BOUNDED
                :: producer_gone
#endif
                fi;
                store(of_consumer, WAIT, 0);
                drained(of_consumer);
                event = 0;
#else
                if
                :: atomic { data_seq == seen -> asleep = true }; /* FUTEX_WAIT looks and sleeps at once */
                    if
                    :: atomic { woken -> woken = false; asleep = false }
#ifdef BOUNDED
                    :: atomic { producer_gone -> woken = false; asleep = false }
#endif
                    fi
                :: data_seq != seen
                fi;
                store(of_consumer, WAIT, 0);
#endif
#ifdef BOUNDED
                if
                :: producer_gone && mem[TAIL] == taken -> break /* BrokenError, and nothing that came is left */
                :: else
                fi
#endif
            fi
        fi
    od;
#ifdef KILL
    assert(taken == MESSAGES || (producer_gone && taken == mem[TAIL]))
#else
    assert(taken == MESSAGES)
#endif
}

proctype killer() {
    if
    :: killed = true
    :: skip
    fi
}

init {
    atomic {
        run killer();
        run flush(of_producer);
        run flush(of_consumer);
        run producer();
        run consumer()
    }
}
