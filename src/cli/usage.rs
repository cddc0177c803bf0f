//! Command line and environment, as clap parses them.

use std::{env, ffi::OsString, path::Path};

use clap::{
    Arg, ArgMatches, Command, Error,
    builder::{OsStr, Resettable},
    error::{ContextKind, ContextValue},
};

/// Name of the program as a plugin of kubectl, as users type it.
const PLUGIN: &str = "kubectl peer-relay";
/// Argument for which an empty text is a value.
const MAY_BE_EMPTY: &str = "port";

/// Parses the command line and the environment, or ends the process with a message. As a plugin of
/// kubectl, help and errors show the name that users type.
pub(super) fn parse(command: Command) -> ArgMatches {
    let arguments: Vec<_> = env::args_os().collect();
    let command = named(command, arguments.first());
    let mut command = without_empty_variables(command);
    match command.try_get_matches_from_mut(&arguments) {
        Ok(matches) => matches,
        Err(error) => with_variable(error, &command, &arguments).exit(),
    }
}

/// Returns the command with the name that users type, also in its examples.
pub(super) fn named(command: Command, own: Option<&OsString>) -> Command {
    let is_plugin = own.is_some_and(|own| is_plugin(Path::new(own)));
    match is_plugin {
        true => examples_of_plugin(command.name(PLUGIN).bin_name(PLUGIN)),
        false => command,
    }
}

fn examples_of_plugin(command: Command) -> Command {
    let command = match command.get_after_help().map(ToString::to_string) {
        Some(help) => command.after_help(help.replace("  peerrelay ", &format!("  {PLUGIN} "))),
        None => command,
    };
    command.mut_subcommands(examples_of_plugin)
}

/// Returns whether kubectl started this program, judged by the name of the executable.
fn is_plugin(own: &Path) -> bool {
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("kubectl-")
}

/// Removes variables that are empty: `NAME=` in a unit file or manifest means that it is not set.
fn without_empty_variables(command: Command) -> Command {
    let is_empty = |arg: &Arg| {
        let value = arg.get_env().and_then(env::var_os);
        arg.get_id() != MAY_BE_EMPTY && value.is_some_and(|value| value.is_empty())
    };
    let command = command.mut_args(|arg| match is_empty(&arg) {
        true => arg.env(Resettable::<OsStr>::Reset),
        false => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

/// Adds the name of the variable to an error about its value.
fn with_variable(mut error: Error, command: &Command, arguments: &[OsString]) -> Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    if let Some(variable) = variable(argument, command, arguments) {
        // The message puts the argument between quotes.
        let argument = format!("{argument}' in the environment variable '{variable}");
        error.insert(ContextKind::InvalidArg, ContextValue::String(argument));
    }
    error
}

/// Returns the variable from which an argument has its value, unless it is on the command line.
fn variable(argument: &str, command: &Command, given: &[OsString]) -> Option<String> {
    let name = argument.split([' ', '[', '=']).next().unwrap_or(argument);
    let is_given = given.iter().filter_map(|word| word.to_str()).any(|word| {
        let rest = word.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    let mut words = given.iter().filter_map(|word| word.to_str());
    let subcommand = words.find_map(|word| command.find_subcommand(word));
    let mut arguments = subcommand.unwrap_or(command).get_arguments();
    let found = arguments.find(|arg| arg.to_string() == argument && !is_given)?;
    let variable = found.get_env()?.to_str()?;
    env::var_os(variable).map(|_| variable.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_names_plugins() {
        assert!(is_plugin(Path::new("/usr/local/bin/kubectl-peer_relay")));
        assert!(!is_plugin(Path::new("/usr/bin/peerrelay")));
        assert!(!is_plugin(Path::new("/usr/bin/kubectl")));
    }
}
