//! The whole command line: the commands of a client, and beside them those that run a node in this process.

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use hiveward_cli::{
    Common,
    fail::{Failed, Outcome},
    on_runtime, show, words,
};

use crate::{config, run, scripted_model};

#[derive(Parser)]
#[command(
    name = "hiveward",
    version,
    about = "Supervised agents on durable tasks",
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a node in the foreground
    Up(run::UpArgs),
    /// Start a node to try things: loopback, embedded, faults allowed
    Dev(run::DevArgs),
    #[command(flatten)]
    OfClient(hiveward_cli::Command),
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Check, show or describe the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Serve a model that follows a script, for tests
    #[command(hide = true)]
    ScriptedModel(scripted_model::ScriptedModelArgs),
    /// Hold one agent process (started by the node, not by people)
    #[command(hide = true, disable_help_flag = true)]
    Shim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Returns the whole command line, with a word for all that it takes.
fn whole() -> clap::Command {
    words::worded(Cli::command())
}

/// Parses the arguments and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::from_arg_matches(&whole().get_matches()).unwrap_or_else(|error| error.exit());
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            failed.print();
            ExitCode::from(failed.exit as u8)
        }
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let Cli { common, command } = cli;
    match command {
        Command::Up(args) => run::up(&common, args),
        Command::Dev(args) => run::dev(&common, args),
        Command::OfClient(command) => hiveward_cli::run(common, command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut whole(), "hiveward", &mut script);
            show::print(&String::from_utf8_lossy(&script))
        }
        Command::Config(command) => config::command(&common, command),
        Command::ScriptedModel(args) => on_runtime(scripted_model::run(args)),
        Command::Shim { args: _ } => Err(Failed::usage("the shim is started by the node", "nothing to do by hand")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::whole;

    /// Finds commands in a text that do not exist: in backticks, and in lines of code blocks, that begin with `hiveward`.
    fn unknown_commands(text: &str) -> Vec<String> {
        let spans = text.split('`').skip(1).step_by(2).filter(|span| !span.contains('\n'));
        let lines = text.lines().filter(|line| line.starts_with("hiveward "));
        let written = spans.chain(lines).filter_map(|written| written.strip_prefix("hiveward "));
        let mut root = whole();
        root.build();
        written.filter(|written| !exists(&root, written)).map(str::to_owned).collect()
    }

    /// Tells whether there is such a command with such options; words in capitals stand for others.
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
        let (mut cli, mut found) = (whole(), Vec::new());
        cli.build();
        unsaid(&cli, "", &mut found);
        assert!(found.is_empty(), "without a word in --help:\n{}", found.join("\n"));
    }

    #[test]
    fn every_command_that_a_hint_names_exists() {
        for text in hiveward_cli::hint::all() {
            let unknown = unknown_commands(&text);
            assert!(unknown.is_empty(), "{text:?} names what is not there: {unknown:?}");
        }
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
