"""One of our sessions in the shape of a PyVISA resource, so that a QCoDeS driver can be given it instead of an address.

So the driver that QCoDeS maintains runs behind our broker: it opens nothing itself, what it sends is in the traffic,
and its session is unusable after an error like any other. Only what QCoDeS's `VisaInstrument` asks of a resource is
here.
"""

from __future__ import annotations

from typing import cast

from pyvisa.resources import MessageBasedResource

from instruments.roles.interfaces import LinkError
from instruments.wire.sessions import VisaSession


class SessionResource:
    """What `qcodes.instrument.VisaInstrument` takes as `resource`.

    Parameters
    ----------
    session
        An open session. Whoever closes the resource closes it.
    terminator
        What ends its lines; the session adds and takes it away.
    """

    def __init__(self, session: VisaSession, terminator: str = "\n") -> None:
        self.resource_name = session.address
        self.read_termination: str | None = terminator
        self.write_termination: str | None = terminator
        self.visalib = session  # of a class that is none of PyVISA's back ends
        self._session: VisaSession | None = session

    @classmethod
    def of(cls, session: VisaSession) -> MessageBasedResource:
        """The resource as the type that QCoDeS declares."""
        return cast(MessageBasedResource, cls(session))

    @property
    def session(self) -> VisaSession | None:
        """None when closed."""
        return self._session

    @property
    def timeout(self) -> float:
        """Milliseconds allowed for an answer."""
        return 1e3 * self._live().timeout

    @timeout.setter
    def timeout(self, milliseconds: float) -> None:
        self._live().timeout = milliseconds / 1e3

    def write(self, text: str) -> int:
        """Send one line; returns its length."""
        self._live().write(text)
        return len(text)

    def query(self, text: str) -> str:
        """Send one line and return the one that answers it."""
        session = self._live()
        answer = session.query(text)
        if "\N{REPLACEMENT CHARACTER}" in answer:
            session.condemn(f"damaged answer to {text!r}")
            raise LinkError(f"{session.address}: {answer!r} is damaged; it was the answer to {text!r}")
        return answer

    def clear(self) -> None:
        """Throw the connection away, with whatever may still arrive on it, and open a new one."""
        self._live().reopen()

    def close(self) -> None:
        """Close the session."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _live(self) -> VisaSession:
        if self._session is None:
            raise ConnectionError("the connection is closed")
        return self._session
