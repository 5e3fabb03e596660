"""The SQL store's schema, one step at a time. A step that was released is never edited; a new one is appended.

Control tables of stages (quotas, idempotency, holds) are added here as further steps, so that a store has one version.
"""

from gateway.adapters import dead_letters, holds, keys, limits, notify

STEPS: tuple[str, ...] = (
    # 1: the chain, what lies beside it, and what makes lists fast
    """
    CREATE TABLE store (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

    -- the chain: `data` is the record's exact bytes
    CREATE TABLE records (
        seq INTEGER PRIMARY KEY,
        type TEXT NOT NULL,
        at REAL NOT NULL,
        data BLOB NOT NULL
    );
    CREATE INDEX records_by_type ON records (type, seq) WHERE type <> 'call';

    -- beside the chain: what may be erased; the record holds SHA-256(salt || data) of each
    CREATE TABLE payloads (
        seq INTEGER PRIMARY KEY,
        request_salt BLOB,
        request_encoding TEXT,
        request BLOB,
        response_salt BLOB,
        response_encoding TEXT,
        response BLOB,
        exchange_salt BLOB,
        exchange_encoding TEXT,
        exchange BLOB
    );

    -- made from the chain, for lists
    CREATE TABLE calls (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        at REAL NOT NULL,
        agent TEXT NOT NULL,
        session_id TEXT NOT NULL,
        client TEXT NOT NULL,
        method TEXT NOT NULL,
        tool TEXT NOT NULL,
        risk TEXT NOT NULL,
        outcome TEXT NOT NULL,
        code TEXT,
        executed TEXT NOT NULL,
        in_doubt INTEGER NOT NULL,
        elapsed_us INTEGER,
        recovered INTEGER NOT NULL
    );
    CREATE INDEX calls_by_id ON calls (id);
    CREATE INDEX calls_by_session ON calls (session_id, seq);
    CREATE INDEX calls_by_agent ON calls (agent, seq);
    CREATE INDEX calls_by_tool ON calls (tool, seq);
    CREATE INDEX calls_by_code ON calls (code, seq) WHERE code IS NOT NULL;
    CREATE INDEX calls_by_failure ON calls (outcome, seq) WHERE outcome <> 'completed';

    CREATE TABLE sessions (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        agent TEXT NOT NULL,
        client TEXT NOT NULL,
        first_at REAL NOT NULL,
        last_at REAL NOT NULL,
        calls INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        refused INTEGER NOT NULL,
        held INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        in_doubt INTEGER NOT NULL
    );

    -- calls whose outcome is not recorded: in flight, or left behind by a killed process
    CREATE TABLE begins (
        number INTEGER PRIMARY KEY,
        call_id TEXT NOT NULL,
        at REAL NOT NULL,
        idempotent INTEGER NOT NULL,
        command BLOB NOT NULL,
        trail BLOB NOT NULL,
        commitment BLOB NOT NULL,
        salt BLOB NOT NULL,
        encoding TEXT NOT NULL,
        request BLOB
    );

    -- configurations, policies, definitions: once each, named by the SHA-256 of their bytes
    CREATE TABLE snapshots (
        sha256 TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        at REAL NOT NULL,
        encoding TEXT NOT NULL,
        data BLOB NOT NULL
    ) WITHOUT ROWID;
    """,
    # 2: what stages keep: holds and their signed decisions, idempotency keys, use of quotas, stops, dead letters
    holds.TABLES + keys.TABLES + limits.TABLES + dead_letters.TABLES,
    # 3: the outbox of notifications, and the ids of signed replies
    notify.TABLES,
    # 4: what makes lists of a span of time and of an agent's sessions fast
    """
    CREATE INDEX calls_by_at ON calls (at);
    CREATE INDEX sessions_by_agent ON sessions (agent, number);
    """,
)
