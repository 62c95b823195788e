//! The limits on what one GraphQL document may cost, checked before it is executed. Each refusal names its limit.
//!
//! Two passes: `scan` counts tokens and nesting in the text, so that the parser never sees a document that could
//! exhaust its stack; `check` weighs the parsed document with its fragments expanded (each fragment once, so that a
//! nest of fragments cannot make the weighing itself expensive). What only shows while a document is executed, such as
//! the length of a text, is bounded by `crate::bound`.

use std::collections::{HashMap, HashSet};

use async_graphql::{
    Name, Positioned, Variables,
    parser::types::{ExecutableDocument, Field, OperationDefinition, OperationType, Selection, SelectionSet},
};
use hiveward_runtime::error::{Code, Refused};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits on one GraphQL document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DocumentLimits {
    /// Bytes of the query's text.
    pub query_bytes_max: usize,
    /// Lexical tokens of the query's text.
    pub tokens_max: usize,
    /// Fields within fields; introspection has a limit of its own.
    pub depth_max: usize,
    /// Fields within fields below `__schema` and `__type`; GraphiQL's own query needs 13.
    pub introspection_depth_max: usize,
    /// Lists within lists below `__schema` and `__type`, such as the arguments of the fields of all types: each
    /// further one multiplies the answer by what the schema has.
    pub introspection_lists_max: usize,
    /// One per field, times `first` (or the default page size) of each connection around it.
    pub complexity_max: usize,
    pub aliases_max: usize,
    pub directives_max: usize,
    pub root_fields_max: usize,
    /// Bytes of one answer.
    pub answer_bytes_max: usize,
    /// Fields and list entries of one answer: each takes memory while the answer is made, however short it is.
    pub answer_values_max: usize,
    /// How long one query may keep a thread at work. Time in which it only waits is not counted.
    pub work_ms_max: u64,
}

impl Default for DocumentLimits {
    fn default() -> Self {
        Self {
            query_bytes_max: 16 * 1024,
            tokens_max: 2_000,
            depth_max: 10,
            introspection_depth_max: 16,
            introspection_lists_max: 3,
            complexity_max: 5_000,
            aliases_max: 15,
            directives_max: 50,
            root_fields_max: 20,
            answer_bytes_max: ANSWER_BYTES_MAX,
            answer_values_max: ANSWER_VALUES_MAX,
            work_ms_max: WORK_MS_MAX,
        }
    }
}

/// Entries that a connection returns when `first` is not given.
pub const PAGE_DEFAULT: usize = 50;
/// Entries that a connection returns at most.
pub const PAGE_MAX: usize = 500;

/// Bytes of one answer, unless configured.
pub const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Fields and list entries of one answer, unless configured. The usual introspection query of the own schema has a
/// quarter.
pub const ANSWER_VALUES_MAX: usize = 100_000;
/// Milliseconds that one query may keep a thread at work, unless configured.
pub const WORK_MS_MAX: u64 = 5_000;

/// The depth of brackets over which a document is refused before it is parsed.
const NESTING_MAX: usize = 64;

fn over(limit: &str, max: usize, what: &str) -> Refused {
    Refused::new(Code::Limit, format!("the query has more than {max} {what} (limit `{limit}`); ask for less at once"))
}

/// Checks the text before it is parsed.
pub fn scan(query: &str, limits: &DocumentLimits) -> Result<(), Refused> {
    if query.len() > limits.query_bytes_max {
        return Err(over("query_bytes_max", limits.query_bytes_max, "bytes"));
    }
    let bytes = query.as_bytes();
    let (mut at, mut tokens, mut nesting) = (0, 0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b' ' | b'\t' | b'\r' | b'\n' | b',' | 0xef | 0xbb | 0xbf => {
                at += 1;
                continue;
            }
            b'#' => {
                while at < bytes.len() && bytes[at] != b'\n' && bytes[at] != b'\r' {
                    at += 1;
                }
                continue;
            }
            b'{' | b'(' | b'[' => {
                nesting += 1;
                at += 1;
            }
            b'}' | b')' | b']' => {
                nesting = nesting.saturating_sub(1);
                at += 1;
            }
            b'"' => at = string_end(bytes, at),
            byte if is_word(byte) => {
                while at < bytes.len() && is_word(bytes[at]) {
                    at += 1;
                }
            }
            _ => at += 1,
        }
        tokens += 1;
        if nesting > NESTING_MAX {
            return Err(over("nesting", NESTING_MAX, "levels of brackets"));
        }
        if tokens > limits.tokens_max {
            return Err(over("tokens_max", limits.tokens_max, "tokens"));
        }
    }
    Ok(())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b'.')
}

/// Returns where the string that starts at `at` ends; an unterminated one ends with the text (the parser will say so).
fn string_end(bytes: &[u8], at: usize) -> usize {
    let block = bytes[at..].starts_with(b"\"\"\"");
    let mut next = at + if block { 3 } else { 1 };
    while next < bytes.len() {
        if block && bytes[next..].starts_with(b"\\\"\"\"") {
            next += 4;
        } else if block && bytes[next..].starts_with(b"\"\"\"") {
            return next + 3;
        } else if !block && bytes[next] == b'\\' {
            next += 2;
        } else if !block && matches!(bytes[next], b'"' | b'\n' | b'\r') {
            return next + 1;
        } else {
            next += 1;
        }
    }
    bytes.len()
}

#[derive(Clone, Copy, Default)]
struct Weight {
    depth: usize,
    introspection_depth: usize,
    introspection_lists: usize,
    cost: usize,
    aliases: usize,
    directives: usize,
    roots: usize,
}

impl Weight {
    fn beside(&mut self, other: Self) {
        self.depth = self.depth.max(other.depth);
        self.introspection_depth = self.introspection_depth.max(other.introspection_depth);
        self.introspection_lists = self.introspection_lists.max(other.introspection_lists);
        self.cost = self.cost.saturating_add(other.cost);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.directives = self.directives.saturating_add(other.directives);
        self.roots = self.roots.saturating_add(other.roots);
    }
}

/// What the document is, so far as the transports care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub operation: OperationType,
}

struct Scales<'a> {
    document: &'a ExecutableDocument,
    variables: &'a Variables,
    /// The operation that spreads the fragments; defaults of its variables hold in them.
    operation: Option<&'a OperationDefinition>,
    /// The weight of each fragment; `None` while it is being weighed.
    fragments: HashMap<&'a Name, Option<Weight>>,
}

/// The lists of introspection: what is below comes once per entry.
const INTROSPECTION_LISTS: [&str; 9] =
    ["types", "directives", "fields", "inputFields", "args", "interfaces", "possibleTypes", "enumValues", "appliedDirectives"];

/// Weighs the operation that would run. `None` as the kind means that the document names no such operation (the
/// executor will say so).
pub fn check(
    document: &ExecutableDocument,
    operation: Option<&str>,
    variables: &Variables,
    limits: &DocumentLimits,
) -> Result<Option<Kind>, Refused> {
    let mut scales = Scales { document, variables, operation: None, fragments: HashMap::new() };
    // Every operation and fragment is weighed, because the validator walks all of them.
    let mut kind = None;
    let mut count = 0;
    for fragment in document.fragments.keys() {
        // Its fields are root fields only where an operation spreads it.
        within(Weight { roots: 0, ..scales.fragment(fragment, 0)? }, limits)?;
    }
    for (name, definition) in document.operations.iter() {
        count += 1;
        // A fragment weighs what the variables of the operation that spreads it make of it.
        scales.operation = Some(&definition.node);
        scales.fragments.clear();
        let mut weight = scales.selection(&definition.node.selection_set.node, 0, false)?;
        weight.directives += definition.node.directives.len();
        within(weight, limits)?;
        let subscription = definition.node.ty == OperationType::Subscription;
        if subscription && weight.roots > 1 {
            return Err(Refused::invalid("query", "a subscription has exactly one root field; open one per field"));
        }
        if operation.is_none() || operation == name.map(Name::as_str) {
            kind = Some(Kind { operation: definition.node.ty });
        }
    }
    Ok(if operation.is_none() && count > 1 { None } else { kind })
}

fn within(weight: Weight, limits: &DocumentLimits) -> Result<(), Refused> {
    for (is, max, name, what) in [
        (weight.depth, limits.depth_max, "depth_max", "levels of fields"),
        (weight.introspection_depth, limits.introspection_depth_max, "introspection_depth_max", "levels of introspection"),
        (
            weight.introspection_lists,
            limits.introspection_lists_max,
            "introspection_lists_max",
            "lists of introspection within each other",
        ),
        (weight.aliases, limits.aliases_max, "aliases_max", "aliases"),
        (weight.directives, limits.directives_max, "directives_max", "directives"),
        (weight.roots, limits.root_fields_max, "root_fields_max", "root fields"),
    ] {
        if is > max {
            return Err(over(name, max, what));
        }
    }
    if weight.cost > limits.complexity_max {
        let max = limits.complexity_max;
        return Err(Refused::new(
            Code::Limit,
            format!(
                "the query costs {} and {max} is allowed (limit `complexity_max`); take smaller pages or fewer fields",
                weight.cost
            ),
        ));
    }
    Ok(())
}

impl<'a> Scales<'a> {
    fn selection(&mut self, set: &'a SelectionSet, level: usize, introspecting: bool) -> Result<Weight, Refused> {
        if level > NESTING_MAX {
            return Err(over("nesting", NESTING_MAX, "levels of brackets"));
        }
        let mut sum = Weight::default();
        for item in &set.items {
            let weight = match &item.node {
                Selection::Field(field) => self.field(field, level, introspecting)?,
                Selection::InlineFragment(inline) => {
                    let mut weight = self.selection(&inline.node.selection_set.node, level + 1, introspecting)?;
                    weight.directives += inline.node.directives.len();
                    weight.cost = weight.cost.saturating_add(1);
                    weight
                }
                Selection::FragmentSpread(spread) => {
                    let mut weight = self.fragment(&spread.node.fragment_name.node, level + 1)?;
                    weight.directives += spread.node.directives.len();
                    weight.cost = weight.cost.saturating_add(1);
                    weight
                }
            };
            sum.beside(weight);
        }
        Ok(sum)
    }

    fn fragment(&mut self, name: &'a Name, level: usize) -> Result<Weight, Refused> {
        match self.fragments.get(name) {
            Some(Some(weight)) => return Ok(*weight),
            Some(None) => return Err(Refused::invalid("query", format!("fragment {name} spreads itself"))),
            None => {}
        }
        let Some(definition) = self.document.fragments.get(name) else { return Ok(Weight::default()) };
        self.fragments.insert(name, None);
        let introspects = definition.node.type_condition.node.on.node.starts_with("__");
        let mut weight = self.selection(&definition.node.selection_set.node, level, introspects)?;
        weight.directives += definition.node.directives.len();
        self.fragments.insert(name, Some(weight));
        Ok(weight)
    }

    fn field(&mut self, field: &'a Positioned<Field>, level: usize, introspecting: bool) -> Result<Weight, Refused> {
        let field = &field.node;
        let introspects = introspecting || matches!(field.name.node.as_str(), "__schema" | "__type");
        let inner = self.selection(&field.selection_set.node, level + 1, introspects)?;
        let mut weight = Weight { roots: 1, ..inner };
        // Within introspection the depth counts apart, so that the clients' usual introspection query passes.
        if introspects {
            weight.introspection_depth += 1;
        } else {
            weight.depth += 1;
        }
        weight.cost = match self.page(field, introspects) {
            Page::None => inner.cost,
            Page::Of(entries) => inner.cost.saturating_mul(entries),
            // Its entries are read though none is shown.
            Page::Unseen(entries) => inner.cost.saturating_add(entries),
        };
        weight.cost = weight.cost.saturating_add(1);
        if introspects && INTROSPECTION_LISTS.contains(&field.name.node.as_str()) {
            weight.introspection_lists += 1;
        }
        weight.aliases += usize::from(field.alias.is_some());
        weight.directives += field.directives.len();
        Ok(weight)
    }

    /// Returns the page that a field is, if it is a connection: one with `edges` or `nodes` below it, in whatever fragment.
    fn page(&self, field: &'a Field, introspects: bool) -> Page {
        let sized = field.get_argument("first").is_some() || field.get_argument("last").is_some();
        let below = |names: &[&str]| self.selects(&field.selection_set.node, names, &mut HashSet::new());
        if introspects {
            Page::None
        } else if below(&["edges", "nodes"]) {
            Page::Of(self.entries(field))
        } else if sized || below(&["pageInfo"]) {
            Page::Unseen(self.entries(field))
        } else {
            Page::None
        }
    }

    /// Tells whether one of these fields is selected, here or in a fragment that is spread here. `seen` keeps it to once each.
    fn selects(&self, set: &'a SelectionSet, names: &[&str], seen: &mut HashSet<&'a Name>) -> bool {
        set.items.iter().any(|item| match &item.node {
            Selection::Field(inner) => names.contains(&inner.node.name.node.as_str()),
            Selection::InlineFragment(inline) => self.selects(&inline.node.selection_set.node, names, seen),
            Selection::FragmentSpread(spread) => {
                let name = &spread.node.fragment_name.node;
                let fragment = seen.insert(name).then(|| self.document.fragments.get(name)).flatten();
                fragment.is_some_and(|fragment| self.selects(&fragment.node.selection_set.node, names, seen))
            }
        })
    }

    /// Returns how many entries a page has: what is written, what the variable was given, or what it is by default.
    fn entries(&self, field: &Field) -> usize {
        let wanted = field.get_argument("first").or_else(|| field.get_argument("last"));
        let value = wanted.and_then(|wanted| wanted.node.clone().into_const_with(|name| self.variable(&name).ok_or(())).ok());
        match value {
            Some(async_graphql::Value::Number(number)) => number
                .as_u64()
                .and_then(|entries| usize::try_from(entries).ok())
                .map_or(PAGE_DEFAULT, |entries| entries.clamp(1, PAGE_MAX)),
            _ => PAGE_DEFAULT,
        }
    }

    fn variable(&self, name: &Name) -> Option<async_graphql::Value> {
        let given = self.variables.get(name).cloned();
        given.or_else(|| {
            let declared = self.operation?.variable_definitions.iter().find(|declared| declared.node.name.node == *name)?;
            declared.node.default_value().cloned()
        })
    }
}

/// The page that a field is, if it is one.
enum Page {
    None,
    Of(usize),
    Unseen(usize),
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::parse_query;

    use super::*;

    fn refused(query: &str) -> Option<String> {
        let limits = DocumentLimits::default();
        if let Err(refused) = scan(query, &limits) {
            return Some(refused.message);
        }
        check(&parse_query(query).unwrap(), None, &Variables::default(), &limits).err().map(|refused| refused.message)
    }

    #[track_caller]
    fn names(query: &str, limit: &str) {
        let message = refused(query).unwrap_or_else(|| panic!("not refused: {limit}"));
        assert!(message.contains(limit), "{message} does not name {limit}");
    }

    #[test]
    fn each_limit_is_named_when_it_is_passed_and_not_before() {
        let nested = |n: usize| format!("{}x{}", "{a".repeat(n - 1) + "{", "}".repeat(n));
        assert_eq!(refused(&nested(10)), None);
        names(&nested(11), "depth_max");
        names(&format!("{{{}}}", (0..21).map(|n| format!("f{n} ")).collect::<String>()), "root_fields_max");
        names(&format!("{{a{{{}}}}}", (0..16).map(|n| format!("x{n}: f ")).collect::<String>()), "aliases_max");
        names(&format!("{{a {}}}", "@skip(if:false) ".repeat(51)), "directives_max");
        names(&format!("{{a{{{}}}}}", "f ".repeat(2_000)), "tokens_max");
        names(&format!("{{a(x:\"{}\")}}", "x".repeat(16 * 1024)), "query_bytes_max");
        names(&format!("{{a(x:{}1{})}}", "[".repeat(70), "]".repeat(70)), "nesting");
    }

    #[test]
    fn pages_multiply_and_a_page_in_a_page_is_refused() {
        assert_eq!(refused("{tasks(first:500){edges{node{id title status}}}}"), None);
        names("{tasks(first:500){edges{node{a b c d e f g h i j}}}}", "complexity_max");
        names("{swarms{edges{node{tasks{edges{node{id}}}}}}}", "complexity_max");
    }

    #[test]
    fn a_connection_behind_a_fragment_costs_a_page() {
        let spread = "{...A} fragment A on Query{agents{...B}} fragment B on AgentConnection{edges{node{...C}}}
            fragment C on Agent{tasks{...D}} fragment D on TaskConnection{edges{node{id}}}";
        names(spread, "complexity_max");
        names("{agents{...{edges{node{tasks{...on C{...on C{nodes{id title}}}}}}}}}", "complexity_max");
        assert_eq!(refused("{swarms(first:10){...E}} fragment E on C{edges{node{id name}}}"), None);
        names("{swarms{nodes{agents(first:500){pageInfo{endCursor}}}}}", "complexity_max");
        names("{swarms{nodes{a:agents{...P}b:agents{...P}}}} fragment P on C{pageInfo{endCursor hasNextPage}}", "complexity_max");
    }

    #[test]
    fn a_page_is_as_large_as_its_variable_was_given_or_is_by_default() {
        let below = "{edges{node{a b c d e f g h i j}}}";
        names(&format!("query($n:Int=500){{tasks(first:$n){below}}}"), "complexity_max");
        names(&format!("query($n:Int=500){{...T}} fragment T on Query{{tasks(last:$n){below}}}"), "complexity_max");
        assert_eq!(refused(&format!("query($n:Int){{tasks(first:$n){below}}}")), None, "a page of the usual size");
        assert_eq!(refused(&format!("query($n:Int=20){{tasks(first:$n){below}}}")), None);
        let given = |n: i32| {
            let variables = Variables::from_json(serde_json::json!({ "n": n }));
            let document = parse_query(format!("query($n:Int=1){{tasks(first:$n){below}}}")).unwrap();
            check(&document, None, &variables, &DocumentLimits::default()).is_err()
        };
        assert!(given(500) && given(i32::MAX) && !given(20));
        // Each operation has its own defaults, whichever is weighed first.
        let two = format!("query A($n:Int=1){{...T}} query B($n:Int=500){{...T}} fragment T on Query{{tasks(first:$n){below}}}");
        let two = parse_query(two).unwrap();
        assert!(check(&two, Some("B"), &Variables::default(), &DocumentLimits::default()).is_err());
    }

    #[test]
    fn introspection_has_no_more_lists_within_lists_than_its_usual_query() {
        let mut bomb = String::from("name");
        for _ in 0..3 {
            bomb = format!("possibleTypes{{interfaces{{{bomb}}}}}");
        }
        names(&format!("{{__type(name:\"Node\"){{{bomb}}}}}"), "introspection_lists_max");
        names("{__schema{types{fields{type{fields{args{name}}}}}}}", "introspection_lists_max");
        let hidden = "{__type(name:\"Node\"){...A}} fragment A on __Type{possibleTypes{...B}}
            fragment B on __Type{interfaces{possibleTypes{interfaces{name}}}}";
        names(hidden, "introspection_lists_max");
        assert_eq!(refused("{__schema{types{fields{args{type{ofType{ofType{name}}}}}}}}"), None);
    }

    #[test]
    fn a_nest_of_fragments_is_weighed_quickly_and_refused() {
        let mut query = String::from("{...F0}");
        for n in 0..30 {
            query.push_str(&format!(" fragment F{n} on Query{{...F{} ...F{}}}", n + 1, n + 1));
        }
        query.push_str(" fragment F30 on Query{a}");
        names(&query, "complexity_max");
        names("{...A} fragment A on Query{...B} fragment B on Query{...A}", "spreads itself");
    }

    #[test]
    fn a_subscription_has_one_root_field() {
        names("subscription{events{cursor} supervision{path}}", "exactly one");
    }

    #[test]
    fn strings_and_comments_count_as_the_parser_sees_them() {
        let limits = DocumentLimits { tokens_max: 8, ..Default::default() };
        assert!(scan("{a(x:\"{ [ ( \\\" ) }\")} # {{{{{{{{", &limits).is_ok());
        assert!(scan("{a(x:\"\"\"one \\\"\"\" { two\"\"\")}", &limits).is_ok());
    }
}
