//! Policies as somebody wrote them, and what is wrong with them, by line and column.

use std::sync::Arc;

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use super::schema;

/// The most bytes of one text of policies; a larger one is refused.
pub const POLICY_BYTES_MAX: usize = 256 << 10;

/// The policies that are always there.
const ROLES: &str = include_str!("roles.cedar");

/// A text with policies, under the name by which it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySource {
    pub name: Arc<str>,
    pub text: Arc<str>,
}

/// The error for a text of policies that cannot count. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    #[error("{name}: the text is over {POLICY_BYTES_MAX} bytes")]
    TooLarge { name: Arc<str> },
    #[error("{name}, line {line}, column {column}: {why}")]
    At { name: Arc<str>, line: usize, column: usize, why: String },
}

/// Returns line and column of a byte of a text, both from 1; columns are characters.
fn place(text: &str, byte: usize) -> (usize, usize) {
    let byte = (0..=byte.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let before = &text[..byte];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl PolicySource {
    fn wrong(&self, error: &dyn Diagnostic) -> BadPolicy {
        let at = error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
        let (line, column) = place(&self.text, at);
        let help = error.help().map(|help| format!(" ({help})")).unwrap_or_default();
        BadPolicy::At { name: self.name.clone(), line, column, why: format!("{error}{help}") }
    }

    /// Reads the text and checks it against the schema; each policy is called `NAME/ID`, by its `@id` or its number.
    fn read(&self, schema: &Schema) -> Result<Vec<Policy>, BadPolicy> {
        if self.text.len() > POLICY_BYTES_MAX {
            return Err(BadPolicy::TooLarge { name: self.name.clone() });
        }
        let set: PolicySet = self.text.parse().map_err(|errors: cedar_policy::ParseErrors| match errors.iter().next() {
            Some(first) => self.wrong(first),
            None => self.wrong(&errors),
        })?;
        if let Some(template) = set.templates().next() {
            let why = format!("{}: templates are not taken; write the principal and the resource", template.id());
            return Err(BadPolicy::At { name: self.name.clone(), line: 1, column: 1, why });
        }
        let checked = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
        if let Some(error) = checked.validation_errors().next() {
            return Err(self.wrong(error));
        }
        let named = set.policies().map(|policy| {
            let id = policy.annotation("id").map_or_else(|| policy.id().to_string(), str::to_owned);
            policy.new_id(PolicyId::new(format!("{}/{id}", self.name)))
        });
        Ok(named.collect())
    }
}

/// Puts the roles and these texts together. Errors: one does not fit, or two policies have a name.
pub(super) fn compile(sources: &[PolicySource], schema: &Schema) -> Result<PolicySet, BadPolicy> {
    let roles = PolicySource { name: "role".into(), text: ROLES.into() };
    let mut all = PolicySet::new();
    for source in std::iter::once(&roles).chain(sources) {
        for policy in source.read(schema)? {
            all.add(policy).map_err(|error| source.wrong(&error))?;
        }
    }
    Ok(all)
}

/// Returns the schema, as Cedar works with it.
pub(super) fn compiled_schema() -> Result<Schema, BadPolicy> {
    let source = PolicySource { name: "schema".into(), text: schema::text().into() };
    let read = Schema::from_cedarschema_str(&source.text);
    read.map(|(schema, _)| schema).map_err(|error| source.wrong(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<usize, BadPolicy> {
        let source = PolicySource { name: "mine".into(), text: text.into() };
        source.read(&compiled_schema().unwrap()).map(|policies| policies.len())
    }

    #[test]
    fn the_roles_fit_the_schema_that_the_verbs_make() {
        let schema = compiled_schema().unwrap();
        assert_eq!(compile(&[], &schema).unwrap().policies().count(), 7);
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said_by_line_and_column() {
        let cases = [
            ("permit (principal, action, resource)\nwhen { principal.nam == \"x\" };", 2, 8),
            ("\n  permit (principal action, resource);", 2, 21),
            ("forbid (principal, action == Action::\"cancelTasks\", resource);", 1, 1),
            ("permit (principal == User::\"ann\", action, resource);", 1, 1),
        ];
        for (text, line, _) in cases {
            let BadPolicy::At { line: found, why, .. } = read(text).unwrap_err() else { panic!("{text}") };
            assert_eq!(found, line, "{text}: {why}");
        }
        assert_eq!(read("permit (principal == Principal::\"ann\", action, resource);"), Ok(1));
    }

    #[test]
    fn a_place_counts_characters_and_never_panics() {
        assert_eq!(place("aä\nöü", 4), (2, 1));
        assert_eq!(place("aä\nöü", 6), (2, 2));
        assert_eq!(place("aä", 2), (1, 2));
        assert_eq!(place("", 99), (1, 1));
    }

    #[test]
    fn a_text_over_its_bytes_is_refused() {
        assert!(matches!(read(&" ".repeat(POLICY_BYTES_MAX + 1)), Err(BadPolicy::TooLarge { .. })));
    }
}
