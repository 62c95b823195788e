//! The words of `--help` for the arguments that mean the same in every command, so that they are written once.

use clap::{Arg, Command, CommandFactory};

use super::Cli;

/// Returns the whole command line, with a word for all that it takes.
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

/// Finds commands in a text that do not exist: in backticks, and in lines of code blocks, that begin with `hiveward`.
#[cfg(test)]
pub fn unknown_commands(text: &str) -> Vec<String> {
    let spans = text.split('`').skip(1).step_by(2).filter(|span| !span.contains('\n'));
    let lines = text.lines().filter(|line| line.starts_with("hiveward "));
    let written = spans.chain(lines).filter_map(|written| written.strip_prefix("hiveward "));
    let mut root = command();
    root.build();
    written.filter(|written| !exists(&root, written)).map(str::to_owned).collect()
}

/// Tells whether there is such a command with such options; words in capitals stand for others.
#[cfg(test)]
fn exists(root: &Command, written: &str) -> bool {
    let written = written.split(['#', ';', '|']).next().unwrap_or_default();
    let (mut command, mut words, mut arguments) = (root, written.split_whitespace(), false);
    while let Some(word) = words.next() {
        let option = |command: &Command| {
            let named = command.get_arguments().find(|argument| {
                let long = argument.get_long().is_some_and(|long| word == format!("--{long}"));
                long || argument.get_short().is_some_and(|short| word == format!("-{short}"))
            });
            named.map(|argument| argument.get_action().takes_values())
        };
        if word == "--" {
            return true;
        } else if word.starts_with('-') {
            match option(command).or_else(|| option(root)) {
                Some(true) => words.next(),
                Some(false) => None,
                None => return false,
            };
        } else if let Some(found) = command.find_subcommand(word).filter(|_| !arguments) {
            command = found;
        } else if command.has_subcommands() && word.chars().any(char::is_lowercase) {
            return false;
        } else if command.has_subcommands() {
            // NOUN or VERB: what follows is of any command.
            return true;
        } else {
            arguments = true;
        }
    }
    true
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

    #[test]
    fn every_command_that_the_pages_name_exists_with_its_options() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let mut looked_at = 0;
        for folder in ["errors", "runbook"] {
            for entry in std::fs::read_dir(docs.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                let unknown = unknown_commands(&std::fs::read_to_string(&path).unwrap());
                assert!(unknown.is_empty(), "{} names what is not there: {unknown:?}", path.display());
                looked_at += 1;
            }
        }
        assert!(looked_at > 10, "{looked_at} pages");
    }

    #[test]
    fn a_command_or_an_option_that_does_not_exist_is_noticed() {
        let text = "`hiveward task list --status failed` `hiveward task lst` `hiveward task list --nope`\nhiveward frobnicate\n";
        assert_eq!(unknown_commands(text), ["task lst", "task list --nope", "frobnicate"]);
        assert_eq!(
            unknown_commands("`hiveward --url http://h:1 status` `hiveward NOUN show NAME` `hiveward up --join H`"),
            [""; 0]
        );
    }
}
