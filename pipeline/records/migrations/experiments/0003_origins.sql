-- More than `foundry run` records: stages that are started by themselves, sweeps, `foundry tiers`.
CREATE TABLE wider (
  run_id TEXT PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
  origin TEXT NOT NULL CHECK (origin IN ('foundry run', 'foundry sweep', 'foundry tiers', 'stage', 'git')),
  toolkit_version TEXT NOT NULL,
  finished_at TEXT, -- NULL: not yet, or not known
  seconds REAL,
  exit_code INTEGER,
  message TEXT NOT NULL DEFAULT '', -- what went wrong
  spec_hash TEXT,
  training_run_id TEXT, -- the identity that reports/training_metrics.json gives the training
  git_commit TEXT,
  git_dirty INTEGER,
  environment TEXT NOT NULL DEFAULT '{}', -- JSON
  git_diff TEXT NOT NULL DEFAULT ''
);
INSERT INTO wider SELECT * FROM executions;
DROP TABLE executions;
ALTER TABLE wider RENAME TO executions;
CREATE INDEX executions_by_training ON executions (training_run_id);
