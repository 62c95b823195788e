//! The words of `--help` for the arguments that mean the same in every command, so that they are written once.

use clap::{Arg, Command};

/// Gives a word to every argument of a command and of those below it that has none of its own.
pub fn worded(command: Command) -> Command {
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
        ("task" | "approval", true) => "Its id, or a unique beginning or end of it",
        ("task", false) => "Only of this task",
        ("tasks" | "approvals", true) => "Ids, or unique beginnings or ends of them",
        ("node", true) => "Its address or its id, or a unique beginning or end of the id",
        ("agents" | "vms", true) => "Names or ids, or unique beginnings or ends of ids",
        ("agent" | "swarm" | "vm" | "host" | "image" | "network", true) => {
            "Its name or its id, or a unique beginning or end of the id"
        }
        ("agent" | "swarm", false) => "Only of this one, by name or id",
        _ => return argument,
    };
    argument.help(words)
}
