-- Registered models, the tags that point at them, their exports, and a trail of everything that was done.

CREATE TABLE models (
    model_id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice, not even after a model was deleted
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    checkpoint_path TEXT NOT NULL,  -- of the registry's copy of the model folder, from the folder of the database
    manifest_sha256 TEXT NOT NULL,  -- of the copy's manifest.json, which holds the hashes of all other files
    weights_sha256 TEXT NOT NULL,
    task_type TEXT NOT NULL,
    config_hash TEXT NOT NULL,  -- of the lock of the spec that made it
    training_run_id TEXT,
    parent_model_id INTEGER REFERENCES models (model_id) ON DELETE SET NULL,
    created_at TEXT NOT NULL,
    metrics TEXT NOT NULL,  -- JSON: name → number
    export_formats TEXT NOT NULL DEFAULT '[]',  -- JSON
    model_size_mb REAL NOT NULL,
    memory_req_gb REAL,
    metadata TEXT NOT NULL,  -- JSON
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'retired')),
    UNIQUE (name, version),
    UNIQUE (name, weights_sha256)
);

CREATE INDEX models_by_parent ON models (parent_model_id);

CREATE TABLE model_tags (
    model_id INTEGER NOT NULL REFERENCES models (model_id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (model_id, tag)
);

CREATE INDEX model_tags_by_tag ON model_tags (tag);

CREATE VIEW registered AS
SELECT
    models.*,
    (
        SELECT json_group_array(tag)
        FROM (SELECT tag FROM model_tags WHERE model_tags.model_id = models.model_id ORDER BY tag)
    ) AS tags
FROM models;

CREATE TABLE model_exports (
    export_id INTEGER PRIMARY KEY AUTOINCREMENT,
    model_id INTEGER NOT NULL REFERENCES models (model_id) ON DELETE CASCADE,
    export_formats TEXT NOT NULL,  -- JSON
    export_path TEXT NOT NULL UNIQUE,  -- of the registry's copy, from the folder of the database
    manifest_sha256 TEXT NOT NULL,
    created_at TEXT NOT NULL
);

CREATE INDEX model_exports_by_model ON model_exports (model_id);

-- Names a model by what it was called, so that its story can be read when it has been deleted.
CREATE TABLE model_events (
    event_id INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    model_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    details TEXT NOT NULL  -- JSON
);

CREATE INDEX model_events_by_name ON model_events (name);

CREATE TRIGGER model_events_are_not_changed BEFORE UPDATE ON model_events
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is not changed');
END;

CREATE TRIGGER model_events_are_not_removed BEFORE DELETE ON model_events
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is not removed');
END;
