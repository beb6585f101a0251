-- Trials of sweeps are stopped where others are better.
CREATE TABLE wider (
  run_id TEXT PRIMARY KEY,
  run_name TEXT NOT NULL,
  notes TEXT NOT NULL DEFAULT '',
  created_at TEXT NOT NULL, -- UTC, ISO 8601
  updated_at TEXT NOT NULL,
  status TEXT NOT NULL DEFAULT 'running'
    CHECK (status IN ('running', 'completed', 'failed', 'interrupted', 'killed', 'pruned')),
  task_name TEXT,
  modality TEXT,
  strategy TEXT,
  devices TEXT,
  sweep_id TEXT,
  sweep_params TEXT, -- JSON
  gist_id TEXT,
  gist_revision TEXT,
  gist_sha256 TEXT,
  artifact_paths TEXT, -- JSON: type to path
  config TEXT NOT NULL -- JSON: the resolved spec
);
INSERT INTO wider SELECT * FROM runs;
DROP TABLE runs;
ALTER TABLE wider RENAME TO runs;
CREATE INDEX runs_by_time ON runs (created_at);
CREATE INDEX runs_by_sweep ON runs (sweep_id);
