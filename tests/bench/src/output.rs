//! The outputs of results besides the terminal.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// Said alike by every bench.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// Also write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write what is shown into docs/, where it is kept
    #[arg(long)]
    update_docs: bool,
}

impl Output {
    /// Prints `table`, and writes what was asked for; `update` puts the results into docs/.
    pub fn write(
        &self,
        results: &impl Serialize,
        table: &str,
        update: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        println!("{table}");
        if let Some(path) = &self.json {
            fs::write(path, serde_json::to_vec_pretty(results)?)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        if self.update_docs { update() } else { Ok(()) }
    }
}
