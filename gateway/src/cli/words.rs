//! What `--help` says of the arguments that mean the same in every command, so that it is said once.

use clap::{Arg, Command, CommandFactory};

use super::Cli;

/// The whole command line, with a word for all that it takes.
pub fn command() -> Command {
    worded(Cli::command())
}

fn worded(command: Command) -> Command {
    command.mut_args(said).mut_subcommands(worded)
}

fn said(argument: Arg) -> Arg {
    if argument.get_help().is_some() {
        return argument;
    }
    let words = match (argument.get_id().as_str(), argument.is_positional()) {
        ("operation_id", _) => "Repeating the command with the same one does it once",
        ("limit", _) => "Show at most so many",
        ("status", _) => "Only with one of these, separated by commas",
        ("no_start", _) => "Make it without starting it",
        ("task" | "approval", true) => "Its id",
        ("task", false) => "Only of this task",
        ("tasks" | "approvals", true) => "Ids",
        ("agent" | "swarm" | "vm" | "host" | "image" | "network" | "node", true) => "Its id, or its name",
        ("agent" | "swarm", false) => "Only of this one, by id or name",
        _ => return argument,
    };
    argument.help(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commands, options and arguments that `--help` shows without a word.
    fn unsaid(command: &Command, path: &str, found: &mut Vec<String>) {
        // Its help is of all the others.
        if command.is_hide_set() || command.get_name() == "help" {
            return;
        }
        let path = format!("{path} {}", command.get_name());
        if command.get_about().is_none() {
            found.push(path.clone());
        }
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_help().is_none());
        found.extend(shown.map(|argument| format!("{path} {argument}")));
        command.get_subcommands().for_each(|command| unsaid(command, &path, found));
    }

    #[test]
    fn every_command_and_all_that_it_takes_says_what_it_is() {
        let (mut cli, mut found) = (command(), Vec::new());
        cli.build();
        unsaid(&cli, "", &mut found);
        assert!(found.is_empty(), "without a word in --help:\n{}", found.join("\n"));
    }
}
