//! What one GraphQL document may cost, checked before it is executed. Each refusal names its limit.
//!
//! Two passes: `scan` counts tokens and nesting in the text, so that the parser never sees a document that could
//! exhaust its stack; `check` weighs the parsed document with its fragments expanded (each fragment once, so that a
//! nest of fragments cannot make the weighing itself expensive).

use std::collections::HashMap;

use async_graphql::{
    Name, Positioned, Variables,
    parser::types::{ExecutableDocument, Field, OperationType, Selection, SelectionSet},
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
    /// One per field, times `first` (or the default page size) of each connection around it.
    pub complexity_max: usize,
    pub aliases_max: usize,
    pub directives_max: usize,
    pub root_fields_max: usize,
}

impl Default for DocumentLimits {
    fn default() -> Self {
        Self {
            query_bytes_max: 16 * 1024,
            tokens_max: 2_000,
            depth_max: 10,
            introspection_depth_max: 16,
            complexity_max: 5_000,
            aliases_max: 15,
            directives_max: 50,
            root_fields_max: 20,
        }
    }
}

/// Entries that a connection returns when `first` is not given.
pub const PAGE_DEFAULT: usize = 50;
/// Entries that a connection returns at most.
pub const PAGE_MAX: usize = 500;

/// Deeper brackets than this are refused before parsing.
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

/// Where the string that starts at `at` ends; an unterminated one ends with the text (the parser will say so).
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
    cost: usize,
    aliases: usize,
    directives: usize,
    roots: usize,
}

impl Weight {
    fn beside(&mut self, other: Self) {
        self.depth = self.depth.max(other.depth);
        self.introspection_depth = self.introspection_depth.max(other.introspection_depth);
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
    /// Weight of each fragment; `None` while it is being weighed.
    fragments: HashMap<&'a Name, Option<Weight>>,
}

/// Weighs the operation that would run. `None` as the kind means that the document names no such operation (the
/// executor will say so).
pub fn check(
    document: &ExecutableDocument,
    operation: Option<&str>,
    variables: &Variables,
    limits: &DocumentLimits,
) -> Result<Option<Kind>, Refused> {
    let mut scales = Scales { document, variables, fragments: HashMap::new() };
    // Every operation and fragment is weighed, because the validator walks all of them.
    let mut kind = None;
    let mut count = 0;
    for fragment in document.fragments.keys() {
        // Its fields are root fields only where an operation spreads it.
        within(Weight { roots: 0, ..scales.fragment(fragment, 0)? }, limits)?;
    }
    for (name, definition) in document.operations.iter() {
        count += 1;
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
        let times = if introspects { 1 } else { self.times(field) };
        weight.cost = inner.cost.saturating_mul(times).saturating_add(1);
        weight.aliases += usize::from(field.alias.is_some());
        weight.directives += field.directives.len();
        Ok(weight)
    }

    /// A field with `edges` or `nodes` below it is a connection: what is below comes once per entry.
    fn times(&self, field: &Field) -> usize {
        let pages = field.selection_set.node.items.iter().any(|item| match &item.node {
            Selection::Field(inner) => matches!(inner.node.name.node.as_str(), "edges" | "nodes"),
            // A fragment may hide the edges; count it as a page to be safe.
            _ => field.get_argument("first").is_some() || field.get_argument("last").is_some(),
        });
        if !pages {
            return 1;
        }
        let wanted = field.get_argument("first").or_else(|| field.get_argument("last"));
        let Some(first) = wanted else { return PAGE_DEFAULT };
        let value = first.node.clone().into_const_with(|name| self.variables.get(&name).cloned().ok_or(()));
        match value {
            Ok(async_graphql::Value::Number(number)) => number
                .as_u64()
                .and_then(|first| usize::try_from(first).ok())
                .map_or(PAGE_DEFAULT, |first| first.clamp(1, PAGE_MAX)),
            _ => PAGE_DEFAULT,
        }
    }
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
