/* Slots that a consumer holds when it dies: fb_pool_take, fb_tx_stage, fb_rx_return, fb_tx_drain and fb_tx_reclaim.
 *
 * A producer sends messages in slots. Its first consumer is killed between any two steps, slots in hand, on their way
 * and half given back; the producer takes everything back (a new epoch) and a second consumer joins the same channel.
 *
 * Compile-time switches:
 *   STOPPED    the first consumer was not dead: it goes on at any time after the reclaim
 *   NO_EPOCH   a consumer does not look at the epoch before it gives a slot back
 *   NO_GEN     the producer does not compare the generation of what is given back
 *
 * What is proved, for all interleavings:
 *   (none)     what the second consumer reads is what was sent to it, a slot is freed once, and at the end all are free
 *   STOPPED    what the second consumer reads is still what was sent to it: a late return is refused by its generation.
 *              Nothing is said of what the first one reads, and a late return may cost the channel (poisoned) or a slot
 *              until the channel ends; this is why `reclaim` asks for a dead consumer.
 * and found wrong, so that the model can be seen to bite:
 *   STOPPED NO_EPOCH NO_GEN    a late return frees a slot that the second consumer still reads
 *
 * Run all of it with `make model`, or one:
 *   spin -a reclaim.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 */

#define SLOTS 2
#define ITEMS 2    /* places in the completion ring */
#define FIRST 2    /* messages that are sent to the first consumer, at most */
#define SECOND 2   /* and to the second */

/* Shared with the consumer. */
byte ring_slot[8], ring_gen[8], tail, epoch;
byte return_slot[ITEMS], return_gen[ITEMS], return_tail;

/* Private to the producer. */
bool out[SLOTS], holds[SLOTS];
byte gen[SLOTS], return_head;
byte start; /* where the second consumer begins */

/* To look on. */
byte inside[SLOTS]; /* the generation whose bytes stand in a slot */
bool killed, first_dead, joined, poisoned, second_over;

inline drain() {
    d_step {
        now = return_tail;
        if
        :: (now - return_head) > ITEMS || now < return_head -> poisoned = true
        :: else ->
            do
            :: return_head < now ->
                slot = return_slot[return_head % ITEMS];
                if
#ifdef NO_GEN
                :: out[slot] && holds[slot] ->
#else
                :: out[slot] && holds[slot] && gen[slot] == return_gen[return_head % ITEMS] ->
#endif
                    holds[slot] = false;
                    out[slot] = false
                :: else
                fi;
                return_head++
            :: else -> break
            od
        fi;
        slot = 0;
        now = 0
    }
}

inline send() {
    d_step {
        slot = 0;
        do
        :: slot < SLOTS && out[slot] -> slot++
        :: else -> break
        od
    };
    if
    :: slot < SLOTS ->
        out[slot] = true;
        gen[slot]++;
        inside[slot] = gen[slot]; /* the copy in */
        holds[slot] = true;
        ring_slot[tail] = slot;
        ring_gen[tail] = gen[slot];
        tail++;
        sent++
    :: else
    fi;
    slot = 0
}

proctype producer() {
    byte sent, slot, now;
    do
    :: sent < FIRST && !poisoned -> drain(); send()
    :: break
    od;
#ifdef STOPPED
    skip;
#else
    first_dead;
#endif
    d_step { /* fb_tx_reclaim: the consumer's side of it is dead, or does not know yet */
        epoch++;
        slot = 0;
        do
        :: slot < SLOTS -> if :: holds[slot] -> holds[slot] = false; out[slot] = false :: else fi; slot++
        :: else -> break
        od;
        slot = 0;
        start = tail;
        return_tail = return_head;
        sent = 0
    };
    joined = true;
    do
    :: sent < SECOND && !poisoned -> drain(); send()
    :: poisoned -> break
    :: sent == SECOND -> break
    od;
    second_over || poisoned;
    drain();
#ifndef STOPPED
    assert(!poisoned && !out[0] && !out[1])
#endif
}

/* Takes all that comes, holds up to two slots, gives them back in any order. */
inline consume(mine, most, checked) {
    do
    :: epoch == mine && head < tail && held < SLOTS && got < most ->
        in_hand[held] = ring_slot[head];
        in_gen[held] = ring_gen[head];
        held++;
        head++;
        got++
    :: held > 0 ->
        if
        :: which = 0
        :: held == 2 -> which = 1
        fi;
        if
        :: checked -> assert(inside[in_hand[which]] == in_gen[which])
        :: else
        fi;
        if
#ifdef NO_EPOCH
        :: true ->
#else
        :: epoch == mine ->
#endif
            return_slot[place % ITEMS] = in_hand[which];
            return_gen[place % ITEMS] = in_gen[which];
            place++;
            return_tail = place
        :: else
        fi;
        in_hand[which] = in_hand[held - 1];
        in_gen[which] = in_gen[held - 1];
        held--
    :: got == most && held == 0 -> break
    :: epoch != mine && held == 0 -> break
    :: poisoned -> break
    od
}

proctype first() {
    byte head, held, got, which, place, in_hand[SLOTS], in_gen[SLOTS];
#ifdef STOPPED
    consume(0, FIRST, false)
#else
    { consume(0, FIRST, true) } unless { killed };
    first_dead = true
#endif
}

proctype second() {
    byte head, held, got, which, place, in_hand[SLOTS], in_gen[SLOTS];
    joined;
    head = start;
    place = return_head;
    consume(1, SECOND, true);
    second_over = true
}

proctype killer() {
    killed = true
}

init {
    atomic {
        run killer();
        run producer();
        run first();
        run second()
    }
}
