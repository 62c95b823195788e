//! `hiveward explain CODE`: what an error code means, whether anything happened, and what to do.
//!
//! Owns the pages, which are those of `docs/errors`. Asks no node. Every code has a page, or this does not compile.

use clap::Args;
use hiveward_contract::error::Code;
use serde_json::{Value, json};

use super::{
    fail::{Exit, Failed, Outcome},
    show::{Format, Show, print},
};

#[derive(Args)]
pub struct ExplainArgs {
    /// Such as UNKNOWN_OUTCOME, in any case; all codes are listed without one
    code: Option<String>,
}

/// Returns the page of a code.
const fn page(code: Code) -> &'static str {
    match code {
        Code::Invalid => include_str!("../../../docs/errors/INVALID.md"),
        Code::NotFound => include_str!("../../../docs/errors/NOT_FOUND.md"),
        Code::Conflict => include_str!("../../../docs/errors/CONFLICT.md"),
        Code::Refused => include_str!("../../../docs/errors/REFUSED.md"),
        Code::Busy => include_str!("../../../docs/errors/BUSY.md"),
        Code::Limit => include_str!("../../../docs/errors/LIMIT.md"),
        Code::Unauthenticated => include_str!("../../../docs/errors/UNAUTHENTICATED.md"),
        Code::Forbidden => include_str!("../../../docs/errors/FORBIDDEN.md"),
        Code::Unavailable => include_str!("../../../docs/errors/UNAVAILABLE.md"),
        Code::UnknownOutcome => include_str!("../../../docs/errors/UNKNOWN_OUTCOME.md"),
        Code::Internal => include_str!("../../../docs/errors/INTERNAL.md"),
    }
}

/// Returns the sentence that a page begins with, after its heading.
fn summary(page: &str) -> &str {
    page.lines().skip(1).find(|line| !line.is_empty()).unwrap_or_default()
}

/// Prints the page of one code, or one line for each.
pub fn run(show: Show, args: ExplainArgs) -> Outcome {
    match args.code {
        Some(given) => one(show, known(&given)?),
        None => all(show),
    }
}

/// Finds the code that was meant; case does not count, nor whether words are joined by `_`, `-` or a space.
fn known(given: &str) -> Outcome<Code> {
    let wanted = given.trim().to_ascii_uppercase().replace(['-', ' '], "_");
    Code::named(&wanted).ok_or_else(|| {
        let names = Code::ALL.map(Code::name);
        let nearest = names.into_iter().min_by_key(|name| strsim::damerau_levenshtein(name, &wanted)).unwrap_or_default();
        Failed::new(
            Exit::NotFound,
            format!("there is no code {given:?}; there are {}", names.join(", ")),
            format!("the nearest is {nearest}: `hiveward explain {nearest}`"),
        )
    })
}

fn value(code: Code) -> Value {
    json!({
        "code": code.name(),
        "summary": summary(page(code)),
        "retryable": code.retryable(),
        "exitStatus": Exit::of(Some(code)) as u8,
        "page": page(code),
    })
}

fn one(show: Show, code: Code) -> Outcome {
    match show.format {
        Format::Table if show.quiet => print(&format!("{}\n", summary(page(code)))),
        Format::Table => print(page(code)),
        _ => show.value(&value(code)),
    }
}

fn all(show: Show) -> Outcome {
    match show.format {
        Format::Table => {
            let lines = Code::ALL.map(|code| match show.quiet {
                true => format!("{}\n", code.name()),
                false => format!("{:<16} {}\n", code.name(), summary(page(code))),
            });
            print(&lines.concat())
        }
        _ => show.value(&Code::ALL.map(value).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    #[test]
    fn every_code_has_a_page_with_its_heading_and_the_exit_status_that_the_command_line_has() {
        for code in Code::ALL {
            let (page, name) = (page(code), code.name());
            assert_eq!(page.lines().next(), Some(format!("# {name}").as_str()));
            assert!(summary(page).ends_with('.'), "{name} does not begin with a sentence");
            for part in ["## Whether anything happened", "## Typical causes", "## What to do"] {
                assert!(page.contains(part), "{name} lacks {part:?}");
            }
            let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
            let status = format!("exit status of the command line is {}", Exit::of(Some(code)) as u8);
            assert!(words.contains(&status), "{name} does not say: {status}");
        }
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let files: BTreeSet<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".md").to_owned())
            .filter(|name| name != "README")
            .collect();
        assert_eq!(files, Code::ALL.map(|code| code.name().to_owned()).into());
    }

    #[test]
    fn a_code_is_known_in_any_case_and_an_unknown_one_names_the_nearest() {
        for given in ["UNKNOWN_OUTCOME", "unknown_outcome", "Unknown-Outcome", " unknown outcome "] {
            assert_eq!(known(given).unwrap(), Code::UnknownOutcome);
        }
        let failed = known("UNAVAILBLE").unwrap_err();
        assert!(failed.next.contains("`hiveward explain UNAVAILABLE`"), "{}", failed.next);
        assert!(Code::ALL.iter().all(|code| failed.what.contains(code.name())), "{}", failed.what);
        assert_eq!(failed.exit, Exit::NotFound);
    }
}
