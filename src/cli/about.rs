//! Subcommands `version`, `completion` and `man`: the program itself.

use anyhow::Context;
use clap::{Args, Command, CommandFactory, error::ErrorKind};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, VERSION, output::print, usage};

/// Name of the executable.
const NAME: &str = env!("CARGO_PKG_NAME");

#[derive(Args)]
#[command(
    after_help = "Examples: complete commands and flags in this shell, or in every new one\n  source \
    <(peerrelay completion bash)\n  peerrelay completion bash > \
    /etc/bash_completion.d/peerrelay"
)]
pub(super) struct CompletionArgs {
    /// Shell that completes
    shell: Shell,
}

#[derive(Args)]
pub(super) struct ManArgs {
    /// Command to describe [default: all commands]
    command: Option<String>,
}

/// Prints the version, as `--version` does.
pub(super) fn version() -> anyhow::Result<()> {
    Ok(print(&command().render_version())?)
}

impl CompletionArgs {
    /// Prints the script for the shell.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        // The completion is for the executable, which no shell finds under the name of a plugin.
        let whole = Cli::command();
        let shown = whole
            .get_subcommands()
            .filter(|command| !command.is_hide_set());
        let mut command = Command::new(NAME).version(VERSION);
        command = command.subcommands(shown.cloned());
        clap_complete::generate(self.shell, &mut command, NAME, &mut script);
        Ok(print(&String::from_utf8(script)?)?)
    }
}

impl ManArgs {
    /// Prints the manual page of the program or of a command.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut whole = Cli::command();
        whole.build();
        let described = match &self.command {
            None => whole,
            Some(name) => match whole.find_subcommand(name) {
                Some(found) => found.clone(),
                None => {
                    let problem = format!("there is no command '{name}'");
                    whole.error(ErrorKind::InvalidSubcommand, problem).exit()
                }
            },
        };
        let mut page = Vec::new();
        let written = Man::new(described).render(&mut page);
        written.context("failed to write the page")?;
        Ok(print(&String::from_utf8(page)?)?)
    }
}

fn command() -> Command {
    usage::named(Cli::command(), std::env::args_os().next().as_ref())
}
