"""The statements of leases, in PostgreSQL: one transaction a heartbeat, by the database's clock.

READ COMMITTED, so that heartbeats never fail for each other: each statement about a lease says
itself of which state it goes out, and who would change another's row passes over one that is
locked. Who decides what: `lease.py`. Why it is right: docs/replicas.md.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from invent_exporter.errors import ConflictError, LeaseLostError
from invent_exporter.ledger import schema
from invent_exporter.ledger.lease import Heard, to_take

if TYPE_CHECKING:
    from invent_exporter.ledger.database import Database

_TRIES = 3
_NOW = sa.cast(sa.extract("epoch", func.clock_timestamp()), sa.Float)
_LEASE, _REPLICA, _ORG = schema.lease.c, schema.replica.c, schema.org.c
_LISTED = select(func.count(), func.max(schema.sub_org.c.seen))
_NOT_OWNED = or_(_LEASE.owner.is_(None), _LEASE.until < _NOW)

_END_FROZEN = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() "
    "AND datname = current_database() AND usename = current_user "
    "AND xact_start < clock_timestamp() - make_interval(secs => :seconds) "
    "AND pid IN (SELECT pid FROM pg_locks WHERE relation = CAST('lease' AS regclass))"
)
"""Break off the steps that have gone on for longer than a lease, and hold one.

Of a process that was frozen in the middle of sending them: the server waits for the rest with none
of its timeouts running, and nobody could take the lease until that process goes on.
"""


def new_name(host: str) -> str:
    """Make a name that no other process has or had, not even the one before on this host."""
    return f"{host}/{secrets.token_hex(4)}"


def shown_name(name: str) -> str:
    """Return the part of a replica's name that people know: its host."""
    return name.rpartition("/")[0]


class Leases:
    """The leases of one replica; each call is a transaction, and may raise StorageError."""

    def __init__(
        self, database: Database, name: str, lease_seconds: float, clock: Callable[[], float]
    ) -> None:
        """Hold leases as `name` for `lease_seconds` each; `clock` never goes back or stands."""
        self.name = name
        self._database = database
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._history_until: dict[str, float] = {}
        self._was_heard = False

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._database.engine.connect() as connection:
                connection.execution_options(isolation_level="READ COMMITTED")
                with connection.begin():
                    yield connection
        except (SQLAlchemyError, OSError) as error:
            raise self._database.failure(error) from error

    def beat(self, target_ids: Sequence[str]) -> Heard:
        """Tell the others that we live, renew what is ours, and take what is due to us.

        `target_ids` are the orgs to poll, of all replicas together; `c` may be one of them.
        """
        for _ in range(_TRIES):
            with suppress(ConflictError):  # a deadlock
                return self._beat(target_ids)
        return self._beat(target_ids)

    def _beat(self, target_ids: Sequence[str]) -> Heard:
        sent, until = self._clock(), _NOW + self._lease_seconds
        with self._transaction() as connection:
            me = select(_REPLICA.name).where(_REPLICA.name == self.name, _REPLICA.until >= _NOW)
            # Then perhaps all were: the others shall come and find what they had.
            is_late = self._was_heard and connection.execute(me).first() is None
            renewal = update(schema.lease).where(_LEASE.owner == self.name).values(until=until)
            renewed = connection.execute(renewal.returning(_LEASE.epoch, _LEASE.org_id))
            mine = {row.epoch: row.org_id for row in renewed}
            keys = self._keys(connection, target_ids)
            wanted = tuple(dict.fromkeys(keys.values()))
            wants = sha256("\n".join(sorted(wanted)).encode()).hexdigest()
            alive = insert(schema.replica).values(name=self.name, until=until, wants=wants)
            fresh = {"until": alive.excluded.until, "wants": wants}
            connection.execute(alive.on_conflict_do_update(schema.replica.primary_key, set_=fresh))
            connection.execute(delete(schema.replica).where(_REPLICA.until < _NOW))
            alike = select(_REPLICA.name).where(_REPLICA.wants == wants)
            # We live, even if this took longer than a lease until here.
            replicas = {self.name, *connection.execute(alike).scalars()}
            owners = self._owners(connection, wanted)
            due = to_take(self.name, wanted, owners, replicas)
            free = [key for key in wanted if key not in owners]
            mine |= self._take(connection, free, 0 if is_late else due)
            owners |= dict.fromkeys(mine.values(), self.name)
            history_until = self._read_history(connection, wanted)
            listed = tuple(connection.execute(_LISTED).one())
        self._was_heard = True
        return Heard(sent, keys, owners, replicas, mine, history_until, listed)

    def _keys(self, connection: Connection, target_ids: Iterable[str]) -> dict[str, str]:
        alias = select(_ORG.org_id).where(_ORG.alias == "c", _ORG.org_id.is_not(None))
        c = connection.execute(alias).scalar() or "c"
        return {each: c if each == "c" else each for each in target_ids}

    def _owners(self, connection: Connection, wanted: Iterable[str]) -> dict[str, str]:
        """Tell who has which org, and make a row of each that has none."""
        query = select(_LEASE.org_id, _LEASE.owner, _NOT_OWNED.label("is_free"))
        rows = connection.execute(query).all()
        # In one order, so that two that add the same never wait for each other.
        missing = sorted({*wanted} - {row.org_id for row in rows})
        if missing:
            new = [{"org_id": key, "until": 0.0} for key in missing]
            connection.execute(insert(schema.lease).on_conflict_do_nothing(), new)
        return {row.org_id: row.owner for row in rows if not row.is_free}

    def _take(self, connection: Connection, free: Sequence[str], due: int) -> dict[int, str]:
        if due <= 0:
            return {}
        chosen = (
            select(_LEASE.org_id)
            .where(_LEASE.org_id.in_(free), _NOT_OWNED)
            .order_by(_LEASE.org_id)
            .limit(due)
            # One that is locked is being taken, renewed late, or in use by a step of its owner.
            .with_for_update(skip_locked=True)
        )
        keys = list(connection.execute(chosen).scalars())
        if len(keys) < min(due, len(free)):
            connection.execute(_END_FROZEN, {"seconds": self._lease_seconds})
        take = (
            update(schema.lease)
            .where(_LEASE.org_id.in_(keys))
            .values(
                owner=self.name,
                epoch=schema.lease_epoch.next_value(),
                until=_NOW + self._lease_seconds,
            )
            .returning(_LEASE.epoch, _LEASE.org_id)
        )
        return {row.epoch: row.org_id for row in connection.execute(take)} if keys else {}

    def _read_history(self, connection: Connection, wanted: Sequence[str]) -> dict[str, float]:
        """Tell the bounds of contacts; one that is complete does not change any more."""
        unknown = [key for key in wanted if key != "c" and key not in self._history_until]
        query = select(_ORG.org_id, _ORG.contact).where(
            _ORG.org_id.in_(unknown), _ORG.contacted == 1
        )
        for row in connection.execute(query) if unknown else ():
            self._history_until[row.org_id] = -math.inf if row.contact is None else row.contact
        return {key: self._history_until.get(key, math.inf) for key in wanted if key != "c"}

    def release(self, epochs: Iterable[int]) -> None:
        """Let others take these leases, at once; only when nothing of their orgs is served."""
        is_it = _LEASE.epoch.in_(list(epochs)) & (_LEASE.owner == self.name)
        with self._transaction() as connection:
            connection.execute(update(schema.lease).where(is_it).values(owner=None))

    def leave(self) -> None:
        """Let others take all, and count no more on this replica."""
        with self._transaction() as connection:
            mine = _LEASE.owner == self.name
            connection.execute(update(schema.lease).where(mine).values(owner=None))
            connection.execute(delete(schema.replica).where(_REPLICA.name == self.name))


def check_lease(connection: Connection, epoch: int, owner: str) -> str:
    """Return the key of a lease that is still its owner's, and keep it so until the end.

    As the first statement of a transaction. Nobody can take the lease meanwhile: that changes its
    epoch, which is unique, and who changes such a column waits for `FOR KEY SHARE`. A renewal
    changes no such column, and neither waits for the step nor holds it up.

    Raises:
        LeaseLostError: another replica took it.

    """
    is_it = (_LEASE.epoch == epoch) & (_LEASE.owner == owner)
    query = select(_LEASE.org_id).where(is_it).with_for_update(read=True, key_share=True)
    key = connection.execute(query).scalar()
    if key is None:
        raise LeaseLostError("the lease of this org was taken by another replica, or given up")
    return str(key)


def move_lease(connection: Connection, epoch: int, org_id: str, owner: str) -> bool:
    """Let a lease be that of another org; False when another replica has that one's.

    `c` turned out to be this org. The epoch stays, and with it what its owner knows of the lease.
    """
    its, is_owned = _LEASE.org_id == org_id, and_(~_NOT_OWNED, _LEASE.owner != owner)
    if connection.execute(select(_LEASE.org_id).where(its, is_owned)).first() is not None:
        return False
    connection.execute(delete(schema.lease).where(its, _LEASE.epoch.is_distinct_from(epoch)))
    connection.execute(update(schema.lease).where(_LEASE.epoch == epoch).values(org_id=org_id))
    return True


def read_owners(connection: Connection) -> dict[str, str]:
    """Name the replica that serves each org, by the org's id (or `c`), as people know it."""
    rows = connection.execute(select(_LEASE.org_id, _LEASE.owner).where(~_NOT_OWNED))
    return {row.org_id: shown_name(row.owner) for row in rows if row.owner is not None}
