//! The search that makes an id of what people write: a name, an id, a unique beginning of it, or the end that lists show.
//!
//! Asks the node for ids and names, at most [`LOOKED_AT_MAX`] of a noun. What fits several things is refused with them. A whole
//! id costs no look through a list.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{
    client::{Client, NAMES},
    fail::{Exit, Failed, Outcome},
    show::text,
};

/// A noun of the command line, and how the node is asked for all that it names.
#[derive(Debug)]
pub struct Noun {
    pub word: &'static str,
    /// The word as it is written in a sentence.
    shown: &'static str,
    operation: &'static str,
    at: &'static str,
    /// Whether things of it have names; others are known by their ids alone.
    named: bool,
    /// Whether the node can be asked for those alone whose name contains a text.
    filtered: bool,
}

macro_rules! nouns {
    ($($name:ident: $word:literal $shown:literal $operation:literal $at:literal named=$named:literal filtered=$filtered:literal;)+) => {
        $(pub const $name: Noun = Noun {
            word: $word, shown: $shown, operation: $operation, at: $at, named: $named, filtered: $filtered,
        };)+
        /// Every noun that ids are written with.
        pub const NOUNS: &[&Noun] = &[$(&$name),+];
    };
}

nouns! {
    TASK: "task" "task" "TaskIds" "/tasks" named=false filtered=false;
    AGENT: "agent" "agent" "AgentIds" "/agents" named=true filtered=true;
    SWARM: "swarm" "swarm" "SwarmIds" "/swarms" named=true filtered=true;
    VM: "vm" "VM" "VmIds" "/vms" named=true filtered=true;
    HOST: "host" "host" "HostIds" "/hosts" named=true filtered=false;
    IMAGE: "image" "image" "ImageIds" "/images" named=true filtered=false;
    NETWORK: "network" "network" "NetworkIds" "/networks" named=true filtered=false;
    APPROVAL: "approval" "approval" "ApprovalIds" "/approvals" named=false filtered=false;
    NODE: "node" "node" "NodeIds" "/cluster" named=true filtered=false;
}

/// The most things of a noun that are looked through for a name, or for the end of an id.
const LOOKED_AT_MAX: usize = 10_000;
/// The most things that are named when several fit.
const NAMED_MAX: usize = 10;
const PAGE: usize = 500;
const DIGITS: usize = 32;
/// The number of digits from which digits without their noun are taken for a part of an id.
const BARE_MIN: usize = 4;

/// The kinds of what people write for a thing.
#[derive(Debug, PartialEq, Eq)]
enum Given<'a> {
    Whole,
    /// Digits that an id may begin or end with; they may be a name as well.
    Part(&'a str),
    Name,
}

impl Noun {
    fn read<'a>(&self, given: &'a str) -> Given<'a> {
        let hex = |digits: &str| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match given.strip_prefix(self.word).and_then(|rest| rest.strip_prefix('_')) {
            Some(digits) if hex(digits) && digits.len() == DIGITS => Given::Whole,
            Some(digits) if hex(digits) && (1..DIGITS).contains(&digits.len()) => Given::Part(digits),
            None if hex(given) && (BARE_MIN..=DIGITS).contains(&given.len()) => Given::Part(given),
            _ => Given::Name,
        }
    }

    /// Tells whether a key is an id of this noun.
    pub fn is_of(&self, key: &str) -> bool {
        key.split_once('_').is_some_and(|(word, _)| word == self.word)
    }

    fn no_id(&self, given: &str) -> Failed {
        let Self { word, shown, .. } = self;
        Failed::usage(
            format!("{given:?} is no id of a {shown}: that is {word}_ and {DIGITS} digits, 0 to 9 and a to f"),
            format!("give it, or a unique beginning or end of it; `hiveward {word} list` shows the ends"),
        )
    }

    fn unknown(&self, given: &str) -> Failed {
        let all = if self.word == "approval" { " --all" } else { "" };
        Failed::new(
            Exit::NotFound,
            format!("there is no {} {given}", self.shown),
            format!("look with `hiveward {} list{all}`", self.word),
        )
    }
}

/// Returns the names of all things of these nouns, by their ids; of each noun at most [`LOOKED_AT_MAX`].
pub async fn names(client: &Client, nouns: &[&Noun]) -> Outcome<HashMap<String, String>> {
    let mut names = HashMap::new();
    for noun in nouns {
        let found = all(client, noun, &Value::Null).await?;
        names.extend(found.into_iter().filter(|one| !one.name.is_empty()).map(|one| (one.id, one.name)));
    }
    Ok(names)
}

/// One thing that a list has.
#[derive(Clone, Debug)]
struct Candidate {
    id: String,
    name: String,
}

impl Candidate {
    fn of(value: &Value) -> Self {
        Self { id: text(value, "id"), name: text(value, "name") }
    }

    fn digits(&self) -> &str {
        self.id.split_once('_').map_or("", |(_, digits)| digits)
    }
}

/// Returns the id of what was written; there must be exactly one that fits.
///
/// Errors: `NotFound` if nothing fits, `Usage` if several things do, or if the text can be no id of a noun without names.
pub async fn id(client: &Client, noun: &Noun, given: &str) -> Outcome<String> {
    match noun.read(given) {
        // A node answers what is not there in its own words, but for questions that only read.
        Given::Whole if noun.named => {
            let found: Value = client.get(NAMES, "Known", json!({ "id": given }), "/node").await?;
            if found["id"].is_null() { Err(noun.unknown(given)) } else { Ok(given.to_owned()) }
        }
        Given::Whole => Ok(given.to_owned()),
        Given::Name if !noun.named => Err(noun.no_id(given)),
        _ => find(client, noun, given).await?.ok_or_else(|| noun.unknown(given)),
    }
}

/// Returns what to send for a thing where the node takes a name itself: only what may be a part of an id is looked up, as [`id`]
/// does, and all else is left to the node.
pub async fn reference(client: &Client, noun: &Noun, given: &str) -> Outcome<String> {
    match noun.read(given) {
        Given::Part(_) => Ok(find(client, noun, given).await?.unwrap_or_else(|| given.to_owned())),
        // No node knows another by its address.
        Given::Name if noun.word == NODE.word => id(client, noun, given).await,
        Given::Whole | Given::Name => Ok(given.to_owned()),
    }
}

/// Returns what [`reference`] does, for what may be absent.
pub async fn optional(client: &Client, noun: &Noun, given: Option<String>) -> Outcome<Option<Value>> {
    match given {
        Some(given) => Ok(Some(reference(client, noun, &given).await?.into())),
        None => Ok(None),
    }
}

/// Returns what [`reference`] does for each, one after the other.
pub async fn references(client: &Client, noun: &Noun, given: Vec<String>) -> Outcome<Vec<String>> {
    let mut ids = Vec::with_capacity(given.len());
    for one in given {
        ids.push(reference(client, noun, &one).await?);
    }
    Ok(ids)
}

/// Returns what [`reference`] does for the noun that the text begins with; a text that begins with none stays as it is.
pub async fn key(client: &Client, given: &str) -> Outcome<String> {
    let noun = given.split_once('_').and_then(|(word, _)| NOUNS.iter().find(|noun| noun.word == word));
    match noun {
        Some(noun) => reference(client, noun, given).await,
        None => Ok(given.to_owned()),
    }
}

/// Finds the id of the one thing that fits; `None` if nothing does.
async fn find(client: &Client, noun: &Noun, given: &str) -> Outcome<Option<String>> {
    let digits = match noun.read(given) {
        Given::Part(digits) => Some(digits),
        Given::Whole | Given::Name => None,
    };
    // There may be very many tasks, and they are listed newest first: only those that begin so are asked for.
    if noun.word == TASK.word
        && let Some(digits) = digits
    {
        let begin = json!({ "first": NAMED_MAX + 1, "after": format!("task_{digits:f<DIGITS$}") });
        let found: Value = client.get(NAMES, noun.operation, begin, &format!("{}/nodes", noun.at)).await?;
        let near: Vec<Candidate> = found.as_array().into_iter().flatten().map(Candidate::of).collect();
        let near: Vec<Candidate> = near.into_iter().filter(|task| task.digits().starts_with(digits)).collect();
        if !near.is_empty() {
            return choose(noun, given, Some(digits), &near);
        }
    }
    let filter = if noun.filtered && digits.is_none() { json!({ "nameContains": given }) } else { Value::Null };
    choose(noun, given, digits, &all(client, noun, &filter).await?)
}

/// Lists all things of a noun, at most [`LOOKED_AT_MAX`]; of tasks and approvals the newest.
async fn all(client: &Client, noun: &Noun, filter: &Value) -> Outcome<Vec<Candidate>> {
    let (mut found, mut after) = (Vec::new(), Value::Null);
    loop {
        let mut variables = json!({ "first": PAGE, "after": after });
        if noun.filtered {
            variables["filter"] = filter.clone();
        }
        // The nodes of a cluster are no pages.
        let variables = if noun.word == NODE.word { json!({}) } else { variables };
        let mut page: Value = client.get(NAMES, noun.operation, variables, noun.at).await?;
        found.extend(page["nodes"].as_array().into_iter().flatten().map(Candidate::of));
        if page["pageInfo"]["hasNextPage"] != json!(true) || found.len() >= LOOKED_AT_MAX {
            found.truncate(LOOKED_AT_MAX);
            return Ok(found);
        }
        after = page["pageInfo"]["endCursor"].take();
    }
}

/// Chooses the one that is meant: by its name, else by how its id begins, else by how its id ends.
fn choose(noun: &Noun, given: &str, digits: Option<&str>, all: &[Candidate]) -> Outcome<Option<String>> {
    let one = |fitting: Vec<&Candidate>, how: &str| match fitting.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.id.clone())),
        several => Err(ambiguous(noun, given, how, several)),
    };
    if noun.named
        && let Some(named) = one(all.iter().filter(|one| one.name == given).collect(), "is the name of")?
    {
        return Ok(Some(named));
    }
    let Some(digits) = digits else { return Ok(None) };
    let begin = all.iter().filter(|one| one.digits().starts_with(digits)).collect();
    if let Some(found) = one(begin, "is how the ids begin of")? {
        return Ok(Some(found));
    }
    if digits.len() < BARE_MIN {
        return Ok(None);
    }
    one(all.iter().filter(|one| one.digits().ends_with(digits)).collect(), "is how the ids end of")
}

fn ambiguous(noun: &Noun, given: &str, how: &str, several: &[&Candidate]) -> Failed {
    let named = several.iter().take(NAMED_MAX).map(|one| format!("{} {}", one.id, one.name).trim_end().to_owned());
    let more = match several.len().saturating_sub(NAMED_MAX) {
        0 => "",
        _ => ", and more",
    };
    let count = if more.is_empty() { several.len().to_string() } else { format!("more than {NAMED_MAX}") };
    Failed::usage(
        format!("{given} {how} {count} {}s: {}{more}", noun.shown, named.collect::<Vec<_>>().join(", ")),
        format!("give more of the id; `hiveward {} list -o json` has them whole", noun.word),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(all: &[(&str, &str)]) -> Vec<Candidate> {
        all.iter().map(|(id, name)| Candidate { id: format!("agent_{id:0<32}"), name: (*name).into() }).collect()
    }

    fn chosen(given: &str, all: &[Candidate]) -> Result<Option<String>, String> {
        let digits = match AGENT.read(given) {
            Given::Part(digits) => Some(digits),
            _ => None,
        };
        choose(&AGENT, given, digits, all).map_err(|failed| failed.what)
    }

    #[test]
    fn an_id_may_be_given_whole_in_part_and_without_its_noun_and_all_else_is_a_name() {
        let whole = "agent_0192f0c1a2b37c4d8e9fa0b1c2d3e4f5";
        assert_eq!(AGENT.read(whole), Given::Whole);
        assert_eq!(AGENT.read("agent_0192"), Given::Part("0192"));
        assert_eq!(AGENT.read("agent_0"), Given::Part("0"));
        assert_eq!(AGENT.read("0192f0"), Given::Part("0192f0"));
        for name in ["command-1", "ab", "agent_x", "agent_", "task_0192", "", "0192F0"] {
            assert_eq!(AGENT.read(name), Given::Name, "{name}");
        }
    }

    #[test]
    fn a_name_goes_before_a_beginning_and_a_beginning_before_an_end() {
        let all = agents(&[
            ("01a1000000000000000000000000beef", "one"),
            ("01a2", "beef"),
            ("beef", "two"),
            ("01a3000000000000000000000000cafe", "x"),
        ]);
        assert_eq!(chosen("beef", &all).unwrap().as_deref(), Some(all[1].id.as_str()), "its name");
        assert_eq!(chosen("agent_beef", &all).unwrap().as_deref(), Some(all[2].id.as_str()), "its beginning");
        assert_eq!(chosen("cafe", &all).unwrap().as_deref(), Some(all[3].id.as_str()), "its end");
        assert_eq!(chosen("agent_01a2", &all).unwrap().as_deref(), Some(all[1].id.as_str()));
        assert_eq!(chosen("nobody", &all), Ok(None));
        assert_eq!(chosen("agent_fe", &all), Ok(None), "an end of two digits is too little");
    }

    #[test]
    fn what_fits_several_is_refused_and_names_at_most_ten_of_them() {
        let ids: Vec<String> = (0..30).map(|n| format!("01a1{n:028x}")).collect();
        let all = agents(&ids.iter().map(|id| (id.as_str(), "hand")).collect::<Vec<_>>());
        for given in ["agent_01a1", "01a1", "hand"] {
            let what = chosen(given, &all).unwrap_err();
            assert_eq!(what.matches("agent_01a1").count(), 10 + usize::from(given.starts_with("agent_")), "{what}");
            assert!(what.contains("more than 10 agents") && what.ends_with("and more"), "{what}");
        }
        let two = chosen("hand", &all[..2]).unwrap_err();
        assert!(two.contains("is the name of 2 agents"), "{two}");
    }
}
