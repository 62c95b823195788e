//! The schema of policies, made from the table of verbs: which actions there are, in which groups, and about what.

use std::fmt::Write;

use crate::{
    resource::ResourceKind,
    verb::{Duty, Verb},
};

/// Returns the schema as text, in Cedar's own language.
pub fn text() -> String {
    let mut text = String::from(
        "entity Role;\nentity Group;\nentity Project;\nentity Principal in [Role, Group] { name: String, kind: String };\n",
    );
    for kind in ResourceKind::ALL {
        let (name, belongs) = (kind.name(), if kind.in_projects() { " in [Project]" } else { "" });
        let entity =
            if kind == ResourceKind::Project { None } else { Some(format!("entity {name}{belongs} {{ owner?: String }};\n")) };
        text.push_str(&entity.unwrap_or_default());
    }
    let kinds: Vec<_> = ResourceKind::ALL.into_iter().map(ResourceKind::name).collect();
    for duty in Duty::ALL {
        // Whether somebody sees a thing is asked of the group itself; of the others only verbs are.
        let about = if duty == Duty::View { applies(&kinds.join(", ")) } else { String::new() };
        let _ = writeln!(text, "action \"{}\"{about};", duty.name());
    }
    for verb in Verb::ALL {
        let (name, group, about) = (verb.name(), verb.duty().name(), applies(verb.kind().name()));
        let _ = writeln!(text, "action \"{name}\" in [\"{group}\"]{about};");
    }
    text
}

fn applies(kinds: &str) -> String {
    format!(" appliesTo {{ principal: [Principal], resource: [{kinds}] }}")
}
