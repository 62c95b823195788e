//! Decides whether an agent's program may use a tool, by its profile's rules on the tool's parsed arguments. Pure but for looking
//! through symbolic links.
//!
//! Never the only wall: a program that may run any one interpreter may do anything its user may.

use std::path::{Component, Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};
use hiveward_catalogue::agent::coding::{Policy, Rule, RulePermission};
use serde_json::Value;

/// What the rules say of one use of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow {
        by: String,
    },
    Deny {
        why: String,
    },
    /// A person decides about it.
    Ask {
        why: String,
    },
}

/// Rules with their patterns read.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Ready>,
}

#[derive(Debug)]
struct Ready {
    number: usize,
    tools: Vec<GlobMatcher>,
    path: Option<PathPattern>,
    command: Option<Vec<GlobMatcher>>,
    and_more: bool,
    decision: RulePermission,
}

#[derive(Debug)]
struct PathPattern {
    glob: GlobMatcher,
    absolute: bool,
}

fn glob(pattern: &str, slashes: bool) -> Result<GlobMatcher, String> {
    let built = GlobBuilder::new(pattern).literal_separator(slashes).build();
    built.map(|glob| glob.compile_matcher()).map_err(|error| format!("{pattern:?} is no pattern: {error}"))
}

impl Rules {
    /// Reads the rules of a policy. Errors name the rule and its field, counted from 0.
    pub fn read(policy: &Policy) -> Result<Self, (usize, &'static str, String)> {
        let read = |(number, rule): (usize, &Rule)| -> Result<Ready, (usize, &'static str, String)> {
            let tools = rule.tool.split('|').map(|name| glob(name.trim(), false)).collect::<Result<Vec<_>, _>>();
            let path = rule
                .path
                .as_deref()
                .map(|path| glob(path, true).map(|glob| PathPattern { glob, absolute: path.starts_with('/') }));
            let words: Option<Vec<&str>> = rule.command.as_deref().map(|command| command.split_whitespace().collect());
            let and_more = words.as_ref().is_some_and(|words| words.last() == Some(&"*"));
            let command = words.map(|words| {
                let fixed = if and_more { &words[..words.len() - 1] } else { &words[..] };
                fixed.iter().map(|word| glob(word, false)).collect::<Result<Vec<_>, _>>()
            });
            Ok(Ready {
                number,
                tools: tools.map_err(|error| (number, "tool", error))?,
                path: path.transpose().map_err(|error| (number, "path", error))?,
                command: command.transpose().map_err(|error| (number, "command", error))?,
                and_more,
                decision: rule.decision,
            })
        };
        Ok(Self { rules: policy.rules.iter().enumerate().map(read).collect::<Result<_, _>>()? })
    }

    /// Decides one use of `tool` by a program that works in `workspace`.
    pub fn decide(&self, tool: &str, input: &Value, workspace: &Path) -> Verdict {
        if let Some(command) = input.get("command").and_then(Value::as_str) {
            return match commands(command) {
                Ok(commands) => self.strictest(commands.iter().map(|words| self.one(tool, Some(words), None))),
                Err(why) => self.not_understood(tool, command, why),
            };
        }
        let named = paths(input);
        if named.is_empty() {
            return self.one(tool, None, None);
        }
        self.strictest(named.iter().map(|path| self.one(tool, None, Some(&Located::of(path, workspace)))))
    }

    /// Decides about a command line whose commands are not known. A rule that denies holds if its words are anywhere in it; a
    /// rule that might deny or ask leaves none of those after it to allow.
    fn not_understood(&self, tool: &str, line: &str, why: &str) -> Verdict {
        let words = words_in(line);
        let mut doubt = None;
        for rule in self.rules.iter().filter(|rule| rule.tools.iter().any(|name| name.is_match(tool))) {
            match (&rule.command, &rule.path, rule.decision) {
                // A rule for the tool as such does not depend on what the command is.
                (None, None, RulePermission::Allow) if doubt.is_some() => break,
                (None, None, _) => return verdict(rule),
                (Some(pattern), None, RulePermission::Deny) if names(pattern, &words) => return verdict(rule),
                (Some(_), None, RulePermission::Deny | RulePermission::Ask) => doubt = doubt.or(Some(rule.number)),
                // What it allows is not known to be all that is done; and a command is at no path.
                (Some(_), None, RulePermission::Allow) | (_, Some(_), _) => {}
            }
        }
        let doubt = doubt.map(|rule| format!(", and rule {rule} may be about it")).unwrap_or_default();
        Verdict::Ask { why: format!("the command cannot be taken apart: {why}{doubt}") }
    }

    fn one(&self, tool: &str, words: Option<&[String]>, path: Option<&Located>) -> Verdict {
        let fits = |rule: &Ready| {
            rule.path.as_ref().is_none_or(|pattern| path.is_some_and(|path| path.fits(pattern)))
                && rule.command.as_ref().is_none_or(|pattern| words.is_some_and(|words| rule.covers(pattern, words)))
        };
        match self.first(tool, fits) {
            // A rule that names no place is for the workspace: what is outside is always somebody's to decide.
            Some(rule) if rule.decision == RulePermission::Allow && rule.path.is_none() => match path {
                Some(path) if path.inside.is_none() => {
                    Verdict::Ask { why: format!("{} is outside the workspace", path.real.display()) }
                }
                _ => verdict(rule),
            },
            Some(rule) => verdict(rule),
            None => Verdict::Ask { why: "no rule decides it".to_owned() },
        }
    }

    fn first(&self, tool: &str, fits: impl Fn(&Ready) -> bool) -> Option<&Ready> {
        self.rules.iter().find(|rule| rule.tools.iter().any(|name| name.is_match(tool)) && fits(rule))
    }

    fn strictest(&self, verdicts: impl Iterator<Item = Verdict>) -> Verdict {
        let rank = |verdict: &Verdict| match verdict {
            Verdict::Allow { .. } => 0,
            Verdict::Ask { .. } => 1,
            Verdict::Deny { .. } => 2,
        };
        let nothing = Verdict::Ask { why: "there is no command in it".to_owned() };
        verdicts.max_by_key(rank).unwrap_or(nothing)
    }
}

fn verdict(rule: &Ready) -> Verdict {
    let by = format!("rule {}", rule.number);
    match rule.decision {
        RulePermission::Allow => Verdict::Allow { by },
        RulePermission::Deny => Verdict::Deny { why: format!("denied by {by} of the agent's policy") },
        RulePermission::Ask => Verdict::Ask { why: format!("{by} asks") },
    }
}

impl Ready {
    fn covers(&self, pattern: &[GlobMatcher], words: &[String]) -> bool {
        let long_enough = if self.and_more { words.len() >= pattern.len() } else { words.len() == pattern.len() };
        long_enough && pattern.iter().zip(words).all(|(pattern, word)| pattern.is_match(word))
    }
}

/// Returns everything in a command line that may be a word of a command, whatever it stands in.
fn words_in(line: &str) -> Vec<String> {
    // Quotes and backslashes do not end a word.
    let plain: String = line.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
    let ends = |c: char| c.is_whitespace() || "$`<>(){};|&!=,".contains(c);
    plain.split(ends).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Tells whether the fixed words of a pattern follow each other anywhere in these.
fn names(pattern: &[GlobMatcher], words: &[String]) -> bool {
    pattern.is_empty()
        || words.windows(pattern.len()).any(|words| pattern.iter().zip(words).all(|(pattern, word)| pattern.is_match(word)))
}

/// A file as it really is: symbolic links followed as far as they exist.
struct Located {
    real: PathBuf,
    /// Path relative to the workspace, if it is in it.
    inside: Option<PathBuf>,
}

impl Located {
    fn of(path: &str, workspace: &Path) -> Self {
        let workspace = std::fs::canonicalize(workspace).unwrap_or_else(|_| workspace.to_owned());
        let real = really(&workspace.join(path));
        let inside = real.strip_prefix(&workspace).ok().map(Path::to_owned);
        Self { real, inside }
    }

    fn fits(&self, pattern: &PathPattern) -> bool {
        if pattern.absolute {
            return pattern.glob.is_match(&self.real);
        }
        self.inside.as_ref().is_some_and(|inside| pattern.glob.is_match(inside))
    }
}

/// Returns `path` with `..` and links resolved; what does not exist yet is taken as written below what does.
pub fn really(path: &Path) -> PathBuf {
    let mut real = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                real.pop();
            }
            Component::Normal(name) => {
                real.push(name);
                if let Ok(resolved) = std::fs::canonicalize(&real) {
                    real = resolved;
                }
            }
            _ => {}
        }
    }
    real
}

/// Returns the files that a tool's input names, by the fields that tools use for them.
pub fn paths(input: &Value) -> Vec<String> {
    let fields = ["file_path", "notebook_path", "path", "abs_path", "filePath", "directory"];
    let own = fields.iter().filter_map(|field| input.get(field)?.as_str());
    let listed = ["paths", "files", "locations"].iter().filter_map(|field| input.get(field)?.as_array()).flatten();
    let listed = listed.filter_map(|item| item.as_str().or_else(|| item.get("path")?.as_str()));
    own.chain(listed).map(str::to_owned).collect()
}

/// Bytes of a command line above which it is asked about.
const COMMAND_BYTES_MAX: usize = 16 << 10;

/// Returns the simple commands of a command line, as words. Errors: it has something in it that its words do not tell the effect
/// of.
fn commands(line: &str) -> Result<Vec<Vec<String>>, &'static str> {
    if line.len() > COMMAND_BYTES_MAX {
        return Err("it is too long");
    }
    let (mut done, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a quote is not closed")? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a quote is not closed")? {
                        '"' => break,
                        '$' | '`' => return Err("it substitutes"),
                        '\\' => match chars.next().ok_or("it ends in a backslash")? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            '\n' => {}
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next().ok_or("it ends in a backslash")? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            '$' | '`' => return Err("it substitutes"),
            '<' | '>' => return Err("it redirects"),
            '(' | ')' | '{' | '}' => return Err("it groups"),
            '*' | '?' | '[' | ']' | '~' => return Err("it expands names"),
            '!' if word.is_none() && words.is_empty() => return Err("it negates"),
            '#' if word.is_none() => return Err("it has a comment"),
            ';' | '|' | '&' | '\n' => {
                words.extend(word.take());
                if c == '&' && chars.peek() != Some(&'&') {
                    return Err("it runs something in the background");
                }
                while chars.next_if(|next| matches!(next, ';' | '|' | '&' | '\n' | ' ' | '\t')).is_some() {}
                if !words.is_empty() {
                    done.push(std::mem::take(&mut words));
                }
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if !words.is_empty() {
        done.push(words);
    }
    for words in &done {
        let first = words[0].as_str();
        if first.contains('=') {
            return Err("it sets variables");
        }
        if KEYWORDS.contains(&first) {
            return Err("it is a program of the shell");
        }
    }
    Ok(done)
}

/// Words after which what follows is not simply a program's arguments.
const KEYWORDS: [&str; 17] = [
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "function", "select", "time",
    "coproc", "[[",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn rule(tool: &str, path: Option<&str>, command: Option<&str>, decision: RulePermission) -> Rule {
        Rule { tool: tool.into(), path: path.map(Into::into), command: command.map(Into::into), decision }
    }

    fn rules(rules: Vec<Rule>) -> Rules {
        Rules::read(&Policy { rules, ..Policy::default() }).unwrap()
    }

    fn allows(rules: &Rules, command: &str) -> bool {
        matches!(rules.decide("Bash", &json!({"command": command}), Path::new("/")), Verdict::Allow { .. })
    }

    #[test]
    fn a_command_line_is_allowed_only_if_every_command_in_it_is() {
        let rules = rules(vec![
            rule("Bash", None, Some("git push *"), RulePermission::Deny),
            rule("Bash", None, Some("git *"), RulePermission::Allow),
            rule("Bash", None, Some("cargo test"), RulePermission::Allow),
        ]);
        assert!(allows(&rules, "git status"));
        assert!(allows(&rules, "git"), "`*` stands for no word as well");
        assert!(allows(&rules, "git add 'a b' && cargo test; git commit -m \"x; y\""));
        assert!(!allows(&rules, "cargo test --workspace"), "without `*` nothing may follow");
        for sign_within_a_word in ["git log a#b", "git log a!", "git log '#' \"!\" !"] {
            assert!(allows(&rules, sign_within_a_word), "{sign_within_a_word}");
        }
        for sign_before_a_word in ["git status #x", "! git status"] {
            assert!(!allows(&rules, sign_before_a_word), "{sign_before_a_word}");
        }
        let longest = format!("git {}", "x".repeat(COMMAND_BYTES_MAX - 4));
        assert!(allows(&rules, &longest) && !allows(&rules, &format!("{longest}x")));
        for bad in [
            "git status; rm -rf /",
            "git status && $(rm -rf /)",
            "git status `rm x`",
            "git status | sh",
            "git status & rm x",
            "git status\nrm x",
            "git log > /etc/passwd",
            "PATH=/tmp git status",
            "git log \"$(rm x)\"",
            "(rm x)",
            "gi\\\nt; rm x",
            "'git status'",
            "",
            "if git status; then rm x; fi",
        ] {
            assert!(!allows(&rules, bad), "{bad}");
        }
        let denied = rules.decide("Bash", &json!({"command": "git add . && git push origin main"}), Path::new("/"));
        assert!(matches!(denied, Verdict::Deny { .. }), "{denied:?}");
        let not_understood = rules.decide("Bash", &json!({"command": "git log $X"}), Path::new("/"));
        assert_eq!(
            not_understood,
            Verdict::Ask { why: "the command cannot be taken apart: it substitutes, and rule 0 may be about it".into() }
        );
    }

    #[test]
    fn what_a_rule_denies_is_not_done_whatever_else_the_command_line_has_in_it() {
        let rules = rules(vec![
            rule("Bash", None, Some("rm *"), RulePermission::Deny),
            rule("Bash", None, Some("git push *"), RulePermission::Deny),
            rule("Bash", None, None, RulePermission::Allow),
        ]);
        let decide = |line: &str| rules.decide("Bash", &json!({"command": line}), Path::new("/"));
        for denied in [
            "rm -rf x",
            "rm -rf \"$PWD\"",
            "rm -rf {a,b}",
            "rm -rf ~",
            "rm -rf *",
            "(rm -rf x)",
            "echo $(rm -rf x)",
            "echo `rm -rf x`",
            "{ rm -rf x; }",
            "rm -rf x > /dev/null",
            "if true; then rm x; fi",
            "A=b rm x",
            "r\\m -rf $HOME",
            "'rm' -rf $HOME",
            "sleep 9 & rm x",
            "! rm x",
            "true # $X\nrm x",
            "echo \"$(git push origin main)\"",
        ] {
            assert!(matches!(decide(denied), Verdict::Deny { .. }), "{denied}: {:?}", decide(denied));
        }
        // It may be anything that a rule denies.
        for doubtful in ["$X -rf x", "echo $X | $Y", "ls > x", &"x".repeat(COMMAND_BYTES_MAX + 1)] {
            assert!(matches!(decide(doubtful), Verdict::Ask { .. }), "{doubtful}");
        }
        assert!(matches!(decide("ls -l; cargo test"), Verdict::Allow { .. }));
        let allowed_first = self::rules(vec![
            rule("Bash", None, None, RulePermission::Allow),
            rule("Bash", None, Some("rm *"), RulePermission::Deny),
        ]);
        assert!(allows(&allowed_first, "rm -rf $X"), "the first rule that fits decides");
    }

    #[test]
    fn a_rule_that_names_no_place_allows_in_the_workspace_only_and_denies_everywhere() {
        let workspace = tempfile::tempdir().unwrap();
        let rules = rules(vec![
            rule("Read", Some("/etc/**"), None, RulePermission::Allow),
            rule("Read", None, None, RulePermission::Allow),
            rule("Write", None, None, RulePermission::Deny),
        ]);
        let decide = |tool: &str, path: &str| rules.decide(tool, &json!({"file_path": path}), workspace.path());
        assert!(matches!(decide("Read", "a"), Verdict::Allow { .. }));
        assert!(matches!(decide("Read", "/etc/hosts"), Verdict::Allow { .. }), "its place is named");
        assert!(matches!(decide("Read", "/srv/x"), Verdict::Ask { .. }));
        for path in ["a", "/etc/hosts", "/srv/x"] {
            assert!(matches!(decide("Write", path), Verdict::Deny { .. }), "{path}");
        }
    }

    #[test]
    fn files_are_judged_by_where_they_really_are() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let (work, other) = (root.join("work"), root.join("other"));
        std::fs::create_dir_all(work.join("src")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, work.join("src/link")).unwrap();
        let rules = rules(vec![
            rule("Write|Edit", Some("src/secret/**"), None, RulePermission::Deny),
            rule("Write|Edit", Some("src/**"), None, RulePermission::Allow),
            rule("Read", None, None, RulePermission::Allow),
        ]);
        let decide = |tool: &str, path: String| rules.decide(tool, &json!({"file_path": path}), &work);
        let inside = work.join("src/a.rs").display().to_string();
        assert!(matches!(decide("Write", inside.clone()), Verdict::Allow { .. }));
        assert!(matches!(decide("Edit", "src/a.rs".into()), Verdict::Allow { .. }));
        assert!(matches!(decide("Edit", "src/x/../secret/key".into()), Verdict::Deny { .. }));
        for out in ["src/../../other/f", "src/link/f", "../f", "/etc/passwd", "docs/a"] {
            assert!(matches!(decide("Write", out.into()), Verdict::Ask { .. }), "{out}");
            let read = matches!(decide("Read", out.into()), Verdict::Allow { .. });
            assert_eq!(read, out == "docs/a", "a rule without a place is for the workspace: {out}");
        }
        assert!(matches!(decide("Bash", inside), Verdict::Ask { .. }));
    }

    #[test]
    fn a_wrong_pattern_names_its_rule_and_field() {
        let policy = Policy { rules: vec![rule("Bash", None, Some("git [ *"), RulePermission::Allow)], ..Policy::default() };
        let (number, field, _) = Rules::read(&policy).unwrap_err();
        assert_eq!((number, field), (0, "command"));
    }

    proptest! {
        /// Checks that what a shell would do with a line that we take apart is never more than what we saw: each of its words is
        /// there.
        #[test]
        fn nothing_of_a_command_line_that_is_taken_apart_gets_lost(line in "[a-z '\";|&$()<>\\\\\n=]{0,40}") {
            if let Ok(commands) = commands(&line) {
                let seen: String = commands.concat().concat();
                let letters = |text: &str| text.chars().filter(char::is_ascii_lowercase).collect::<String>();
                prop_assert_eq!(letters(&seen), letters(&line));
            }
        }
    }
}
