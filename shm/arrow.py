"""Arrow record batches over a ring: written into a slot, read in place, their schema sent once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from flowbridge.codec.payload import PayloadReader, PayloadWriter
from flowbridge.errors import WouldBlock
from flowbridge.shm._core import KIND_CTRL, REASONS

if TYPE_CHECKING:
    from flowbridge.codec.batch import BatchTemplate, Validate
    from flowbridge.codec.payload import Prepared
    from flowbridge.shm.port import Loan, ShmConsumer, ShmProducer

_NS_PER_WAIT: Final = 100_000_000


class BatchProducer:
    """Sends batches over a producer that nobody else sends with."""

    def __init__(self, producer: ShmProducer) -> None:
        self.producer: Final = producer
        self._writer = PayloadWriter()

    def send_batch_nowait(self, batch: Any) -> None:
        """Send a `pyarrow.RecordBatch` now: one copy into a slot, or into the ring when it is small.

        Raises: WouldBlock and nothing was sent; EncodeError; BrokenError.
        """
        self._send(self._writer.prepare(batch), None)

    def send_batch(self, batch: Any, timeout_ns: int | None = None) -> None:
        """As `send_batch_nowait`, but wait for credit, ring or slot; WouldBlock after the time-out."""
        until_ns = None if timeout_ns is None else time.monotonic_ns() + timeout_ns
        self._send(self._writer.prepare(batch), until_ns, waits=True)

    def loan_batch(self, template: BatchTemplate) -> BatchLoan:
        """A slot whose columns are computed in place: nothing is copied.

        Raises: WouldBlock; LocalProtocolError when no slot is large enough; EncodeError; BrokenError.
        """
        prepared = self._writer.prepare_template(template)
        self._announce(prepared, None, waits=False)
        return BatchLoan(self.producer.loan(template.nbytes), template, prepared)

    def _announce(self, prepared: Prepared, until_ns: int | None, *, waits: bool) -> None:
        for codec, tag, data in prepared.before:
            while self.producer.try_send(data, codec=codec, tag=tag, kind=KIND_CTRL):
                self._wait(until_ns, waits=waits)
        if prepared.before:
            self._writer.announced(prepared)

    def _send(self, prepared: Prepared, until_ns: int | None, *, waits: bool = False) -> None:
        self._announce(prepared, until_ns, waits=waits)
        producer = self.producer
        if prepared.data is not None or prepared.nbytes <= producer.spec.inline_bytes_max:
            data = prepared.to_bytes()
            while producer.try_send(data, codec=prepared.codec, tag=prepared.tag):
                self._wait(until_ns, waits=waits)
            return
        while (loan := producer.try_loan(prepared.nbytes)) is None:
            self._wait(until_ns, waits=waits)
        with memoryview(loan) as target:
            prepared.write_into(target)
        loan.commit(prepared.nbytes, codec=prepared.codec, tag=prepared.tag)

    def _wait(self, until_ns: int | None, *, waits: bool) -> None:
        producer = self.producer
        left_ns = _NS_PER_WAIT if until_ns is None else until_ns - time.monotonic_ns()
        if not waits or left_ns <= 0:
            raise WouldBlock(REASONS[producer.blocked_by], producer.name)
        producer.wait_space(min(left_ns, _NS_PER_WAIT))


class BatchLoan:
    """A batch under construction: `columns` by name are numpy arrays in the slot; `commit` sends it.

    Take no reference to a column along: the slot goes to somebody else.
    """

    def __init__(self, loan: Loan, template: BatchTemplate, prepared: Prepared) -> None:
        self._loan = loan
        self._prepared = prepared
        self._view: memoryview = memoryview(loan)
        self.columns: dict[str, Any] = template.views(self._view)

    def commit(self) -> None:
        """Send it. Raises: WouldBlock, and the loan is still yours; BufferError while a column is held elsewhere."""
        self._release()
        self._loan.commit(self._prepared.nbytes, codec=self._prepared.codec, tag=self._prepared.tag)

    def abort(self) -> None:
        """Give the slot back; nothing is sent."""
        self._release()
        self._loan.abort()

    def _release(self) -> None:
        self.columns.clear()
        self._view.release()


class BatchConsumer:
    """Receives batches from a consumer that nobody else receives with. A batch holds its slot until its last slice."""

    def __init__(self, consumer: ShmConsumer, *, validate: Validate = "structure") -> None:
        self.consumer: Final = consumer
        self._reader = PayloadReader(validate=validate)

    def receive_batch_nowait(self) -> Any:
        """The next batch, None when there is none now.

        Raises: EndOfStream; BrokenError; DecodeError or RemoteProtocolError for what is no batch.
        """
        while (lease := self.consumer.receive_nowait()) is not None:
            if lease.kind != KIND_CTRL:
                return self._reader.read(lease.codec, lease.tag, lease)
            self._reader.control(lease.codec, lease.tag, memoryview(lease))
        return None

    def receive_batch(self, timeout_ns: int | None = None, spin_ns: int | None = None) -> Any:
        """The next batch, waiting without the interpreter lock; None after the time-out."""
        while True:
            lease = self.consumer.receive(timeout_ns, spin_ns)
            if lease is None:
                return None
            if lease.kind != KIND_CTRL:
                return self._reader.read(lease.codec, lease.tag, lease)
            self._reader.control(lease.codec, lease.tag, memoryview(lease))
