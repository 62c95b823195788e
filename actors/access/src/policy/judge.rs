//! What the policies say of one question, and the memory of what they said before.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use arc_swap::ArcSwap;
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression, Schema,
};
use hiveward_kernel::id::ProjectId;
use hiveward_runtime::error::{Code, Refused};
use parking_lot::RwLock;

use super::source::{self, BadPolicy, PolicySource};
use crate::{
    principal::{Principal, PrincipalKind},
    resource::{Resource, ResourceKind},
    role::{Role, Roles},
    verb::{Duty, Verb},
};

/// The most answers that are remembered; then all are forgotten, and made again as they are asked for.
const REMEMBERED_MAX: usize = 16_384;

/// What somebody wants: a verb, or just to see a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    See,
    Do(Verb),
}

impl Action {
    /// Returns the name of the action in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::See => Duty::View.name(),
            Self::Do(verb) => verb.name(),
        }
    }

    const fn group(self) -> Option<Duty> {
        match self {
            Self::See => None,
            Self::Do(verb) => Some(verb.duty()),
        }
    }
}

/// What the policies say of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub allowed: bool,
    /// The policies that say so: those that permit it, or those that forbid it. Empty if it is refused because none permits it.
    pub because: Vec<Arc<str>>,
}

/// The name of an asker, and his groups.
type Asker = (Arc<str>, Arc<[Arc<str>]>);

/// All that an answer hangs on, as far as the policies look at it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    roles: Roles,
    action: Action,
    kind: ResourceKind,
    project: Option<ProjectId>,
    /// Whether the asker is the thing's owner, if it has one.
    own: Option<bool>,
    /// The asker, where policies beside the roles may name him.
    who: Option<Asker>,
}

struct Compiled {
    policies: PolicySet,
    /// Why policies that were applied do not count, as when another version applied them; all but administrators are refused
    /// then, since one of them may forbid something.
    broken: Option<BadPolicy>,
    /// Whether there are policies beside the roles.
    more: bool,
    /// Whether one of them may look at more of a thing than its kind and its project.
    by_thing: bool,
    remembered: RwLock<HashMap<Question, Arc<Ruling>>>,
}

/// The one that decides. It is shared by all who ask on a node.
pub struct Judge {
    schema: Schema,
    authorizer: Authorizer,
    current: ArcSwap<Compiled>,
}

/// Tells whether a policy looks at more of the resource than its kind and what it is in.
fn looks_at_a_thing(policy: &cedar_policy::Policy) -> bool {
    let scope = matches!(policy.resource_constraint(), cedar_policy::ResourceConstraint::Eq(_));
    // What cannot be told is taken as if it did.
    let conditions = policy.to_json().ok().and_then(|json| json.get("conditions").map(ToString::to_string));
    scope || conditions.is_none_or(|conditions| conditions.contains("\"resource\""))
}

impl Judge {
    /// Makes a judge with the roles and these policies. Errors: one of them does not fit.
    pub fn new(sources: &[PolicySource]) -> Result<Self, BadPolicy> {
        let schema = source::compiled_schema()?;
        let compiled = Self::compile(&schema, sources)?;
        Ok(Self { schema, authorizer: Authorizer::new(), current: ArcSwap::from_pointee(compiled) })
    }

    fn compile(schema: &Schema, sources: &[PolicySource]) -> Result<Compiled, BadPolicy> {
        let policies = source::compile(sources, schema)?;
        let own = |policy: &&cedar_policy::Policy| !policy.id().to_string().starts_with("role/");
        let by_thing = policies.policies().filter(own).any(looks_at_a_thing);
        Ok(Compiled { policies, broken: None, more: !sources.is_empty(), by_thing, remembered: RwLock::default() })
    }

    /// Tells whether these policies would fit, and changes nothing.
    pub fn check(&self, sources: &[PolicySource]) -> Result<(), BadPolicy> {
        Self::compile(&self.schema, sources).map(drop)
    }

    /// Goes by the roles and these policies from here on. Errors: one of them does not fit; only administrators may do
    /// anything then, until others take their place.
    pub fn replace(&self, sources: &[PolicySource]) -> Result<(), BadPolicy> {
        let (compiled, result) = match Self::compile(&self.schema, sources) {
            Ok(compiled) => (compiled, Ok(())),
            Err(bad) => (Compiled { broken: Some(bad.clone()), ..Self::compile(&self.schema, &[])? }, Err(bad)),
        };
        self.current.store(Arc::new(compiled));
        result
    }

    /// Decides. `roles` are those that the principal has in the thing's project, or in the cluster where it is in none.
    pub fn ruling(&self, who: &Principal, roles: Roles, action: Action, on: &Resource<'_>) -> Arc<Ruling> {
        if who.kind == PrincipalKind::Node {
            return Arc::new(Ruling { allowed: true, because: vec!["the node itself".into()] });
        }
        let current = self.current.load();
        if let Some(bad) = current.broken.as_ref().filter(|_| !roles.has(Role::Admin)) {
            return Arc::new(Ruling { allowed: false, because: vec![format!("the policies cannot be read: {bad}").into()] });
        }
        let question = Question {
            roles,
            action,
            kind: on.kind,
            project: on.project,
            own: on.owner.map(|owner| *owner == *who.name),
            who: current.more.then(|| (who.name.clone(), who.groups.clone())),
        };
        if !current.by_thing
            && let Some(ruling) = current.remembered.read().get(&question)
        {
            return ruling.clone();
        }
        let ruling = Arc::new(
            self.decide(&current.policies, who, roles, action, on)
                .unwrap_or_else(|why| Ruling { allowed: false, because: vec![why.into()] }),
        );
        if !current.by_thing {
            let mut remembered = current.remembered.write();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(question, ruling.clone());
        }
        ruling
    }

    fn decide(
        &self,
        policies: &PolicySet,
        who: &Principal,
        roles: Roles,
        action: Action,
        on: &Resource<'_>,
    ) -> Result<Ruling, String> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let groups = who.groups.iter().map(|group| uid("Group", group));
        let parents: HashSet<_> = roles.iter().map(|role| uid("Role", role.name())).chain(groups).collect::<Result<_, _>>()?;
        let attributes = HashMap::from([("name".to_owned(), text(&who.name)), ("kind".to_owned(), text(who.kind.name()))]);
        let principal = Entity::new(uid("Principal", &who.name)?, attributes, parents).map_err(shown)?;

        let owner = on.owner.filter(|_| on.kind != ResourceKind::Project).map(|owner| ("owner".to_owned(), text(owner)));
        let project = on.project.filter(|_| on.kind != ResourceKind::Project).map(|project| uid("Project", &project.to_string()));
        let inside: HashSet<_> = project.into_iter().collect::<Result<_, _>>()?;
        let resource =
            Entity::new(uid(on.kind.name(), &on.id.to_string())?, owner.into_iter().collect(), inside).map_err(shown)?;

        let groups = action.group().map(|duty| uid("Action", duty.name())).into_iter().collect::<Result<_, _>>()?;
        let action = Entity::new_no_attrs(uid("Action", action.name())?, groups);
        let request = Request::new(principal.uid(), action.uid(), resource.uid(), Context::empty(), None).map_err(shown)?;
        let entities = Entities::from_entities([principal, action, resource], None).map_err(shown)?;
        let answer = self.authorizer.is_authorized(&request, policies, &entities);
        if let Some(error) = answer.diagnostics().errors().next() {
            // A policy that cannot be evaluated might be one that forbids.
            return Err(format!("a policy cannot be evaluated: {error}"));
        }
        let mut because: Vec<Arc<str>> = answer.diagnostics().reason().map(|id| id.to_string().into()).collect();
        because.sort();
        Ok(Ruling { allowed: answer.decision() == Decision::Allow, because })
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = kind.parse().map_err(shown)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Ruling {
    /// Refuses what is not allowed to somebody who may know of the thing; nothing was done then.
    pub fn refuse(&self, who: &Principal, action: Action, on: &Resource<'_>) -> Result<(), Refused> {
        if self.allowed {
            return Ok(());
        }
        let why = match self.because.as_slice() {
            [] => "no policy allows it".to_owned(),
            because => format!("because of {}", because.join(", ")),
        };
        let id = on.id.to_string();
        let what = if id.is_empty() || on.project.is_none() && id == Resource::CLUSTER.id.to_string() {
            String::new()
        } else {
            format!(" on {id}")
        };
        let message = format!("{} may not {}{what}: {why}; nothing was done", who.name, action.name());
        Err(Refused::new(Code::Forbidden, message))
    }
}

#[cfg(test)]
mod tests;
