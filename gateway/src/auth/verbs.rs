//! Which verb a field of the API is, and the check of those that are about the cluster itself.
//!
//! What may be done with a thing of a project is decided by the control plane, where the thing is known.

use hiveward_access::verb::Verb;
use hiveward_actors::client::ControlPlane;
use hiveward_runtime::error::{Code, Refused};

/// Refuses a field of the request's root to who may not ask for it; nothing has happened then. One that is no verb is refused
/// to everybody.
pub fn admit(control: &ControlPlane, name: &str) -> Result<(), Refused> {
    // What a schema says of itself.
    if name.starts_with("__") {
        return Ok(());
    }
    let unknown =
        || Refused::new(Code::Forbidden, format!("no policy allows {name}: it is in no table of verbs; nothing was done"));
    control.admit(Verb::named(name).ok_or_else(unknown)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use async_graphql::parser::{
        parse_schema,
        types::{TypeKind, TypeSystemDefinition},
    };
    use hiveward_access::verb::Effect;

    use super::*;

    /// Returns the fields of a root type, as the schema has them.
    fn fields_of(root: &str) -> BTreeSet<String> {
        let document = parse_schema(crate::schema::sdl()).unwrap();
        let types = document.definitions.into_iter().filter_map(|definition| match definition {
            TypeSystemDefinition::Type(of) if of.node.name.node == root => Some(of.node.kind),
            _ => None,
        });
        let fields = types.flat_map(|kind| if let TypeKind::Object(object) = kind { object.fields } else { Vec::new() });
        fields.map(|field| field.node.name.node.to_string()).collect()
    }

    #[test]
    fn every_field_of_the_api_is_a_verb_and_every_verb_is_asked_for_somewhere() {
        let mut asked: BTreeSet<String> = BTreeSet::new();
        for (root, effect) in [("Mutation", Some(Effect::Change)), ("Query", None), ("Subscription", None)] {
            let fields = fields_of(root);
            assert!(!fields.is_empty());
            for field in &fields {
                let verb = Verb::named(field).unwrap_or_else(|| panic!("{field} of {root} has no row in the table of verbs"));
                match effect {
                    Some(effect) => assert_eq!(verb.effect(), effect, "{field} of {root}"),
                    None => assert_ne!(verb.effect(), Effect::Change, "{field} of {root}"),
                }
            }
            asked.extend(fields);
        }
        // A terminal has a socket of its own.
        asked.insert(Verb::AttachTerminal.name().to_owned());
        let idle: Vec<_> = Verb::ALL.iter().map(|verb| verb.name()).filter(|name| !asked.contains(*name)).collect();
        assert_eq!(idle, Vec::<&str>::new(), "nobody can ask for these");
    }
}
