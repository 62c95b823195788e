use proptest::prelude::*;

use super::*;
use crate::role::Grant;

fn judge(more: &[(&str, &str)]) -> Judge {
    let sources: Vec<_> = more.iter().map(|(name, text)| PolicySource { name: (*name).into(), text: (*text).into() }).collect();
    Judge::new(&sources).unwrap()
}

fn with(role: Role) -> (Principal, Roles) {
    (Principal::service("ann", vec![Grant::everywhere(role)]), Roles::default().with(role))
}

fn task(owner: Option<&str>) -> Resource<'_> {
    Resource { kind: ResourceKind::Task, id: &"task_1", project: Some(ProjectId::DEFAULT), owner }
}

/// What a role may do, written down a second time: by duty, and whether the thing is the asker's own.
fn expected(role: Role, duty: Duty, own: bool) -> bool {
    use Duty::*;
    match role {
        _ if duty == Ask => true,
        Role::Viewer => duty == View,
        Role::TaskCreator => matches!(duty, View | CreateTasks) || (duty == TendTasks && own),
        Role::AgentManager => matches!(duty, View | CreateTasks | TendTasks | ManageAgents),
        Role::Operator => !matches!(duty, Enter | Administer),
        Role::Admin => true,
    }
}

#[test]
fn each_role_may_do_with_every_verb_what_its_duties_say_and_nothing_else() {
    let judge = judge(&[]);
    for role in Role::ALL {
        let (who, roles) = with(role);
        for verb in Verb::ALL {
            for owner in [None, Some("ann"), Some("bob")] {
                let on = Resource { kind: verb.kind(), owner, ..task(None) };
                let ruling = judge.ruling(&who, roles, Action::Do(*verb), &on);
                let own = owner == Some("ann");
                assert_eq!(ruling.allowed, expected(role, verb.duty(), own), "{role} {} own: {own}", verb.name());
                assert_eq!(ruling.allowed, !ruling.because.is_empty());
            }
        }
    }
}

#[test]
fn who_has_no_role_sees_nothing_and_may_only_ask_who_he_is() {
    let (judge, nobody) = (judge(&[]), Principal::service("nobody", Vec::new()));
    for kind in ResourceKind::ALL {
        let on = Resource { kind, ..task(None) };
        assert!(!judge.ruling(&nobody, Roles::default(), Action::See, &on).allowed);
    }
    assert!(judge.ruling(&nobody, Roles::default(), Action::Do(Verb::Me), &Resource::CLUSTER).allowed);
}

#[test]
fn a_policy_of_ones_own_forbids_what_a_role_permits_and_is_named() {
    let text = "@id(\"no-cancel\") forbid (principal == Principal::\"ann\", action == Action::\"cancelTask\", resource);";
    let judge = judge(&[("mine", text)]);
    let (ann, roles) = with(Role::AgentManager);
    let ruling = judge.ruling(&ann, roles, Action::Do(Verb::CancelTask), &task(None));
    assert_eq!((ruling.allowed, ruling.because.as_slice()), (false, &["mine/no-cancel".into()][..]));
    let refused = ruling.refuse(&ann, Action::Do(Verb::CancelTask), &task(None)).unwrap_err();
    assert_eq!(refused.code, Code::Forbidden);
    assert!(refused.message.contains("mine/no-cancel"), "{}", refused.message);
    // Another with the same role may, though the answer for the first is remembered.
    let bob = Principal { name: "bob".into(), ..ann };
    assert!(judge.ruling(&bob, roles, Action::Do(Verb::CancelTask), &task(None)).allowed);
    judge.replace(&[]).unwrap();
    let (ann, roles) = with(Role::AgentManager);
    assert!(judge.ruling(&ann, roles, Action::Do(Verb::CancelTask), &task(None)).allowed);
}

#[test]
fn policies_that_cannot_be_read_refuse_all_but_administrators() {
    let judge = judge(&[("mine", "forbid (principal, action == Action::\"cancelTask\", resource);")]);
    let bad = PolicySource { name: "bad".into(), text: "forbid (principal, action == Action::\"fly\", resource);".into() };
    assert!(judge.check(std::slice::from_ref(&bad)).is_err());
    let may = |role| judge.ruling(&with(role).0, with(role).1, Action::Do(Verb::SubmitTask), &task(None)).allowed;
    assert!(may(Role::Admin) && may(Role::Operator), "a check changes nothing");
    assert!(judge.replace(&[bad]).is_err());
    assert!(may(Role::Admin) && !may(Role::Operator));
    judge.replace(&[]).unwrap();
    assert!(may(Role::Operator));
}

proptest! {
    /// Whatever was asked before, an answer is the one that a judge without a memory gives.
    #[test]
    fn what_is_remembered_is_what_would_be_decided(
        asked in prop::collection::vec((0_usize..5, 0..Verb::ALL.len(), 0_usize..3, 0_usize..2, 0_u128..2), 1..60),
        named in any::<bool>(),
    ) {
        let text = "forbid (principal == Principal::\"ann\", action, resource == Task::\"task_1\");
            permit (principal in Group::\"ops\", action in Action::\"operate\", resource);";
        let more: &[_] = if named { &[("mine", text)] } else { &[] };
        let old = judge(more);
        for (role, verb, owner, who, project) in asked {
            let (role, verb) = (Role::ALL[role], Verb::ALL[verb]);
            let who = Principal { name: ["ann", "bob"][who].into(), groups: [vec![], vec!["ops".into()]][who].clone().into(), ..with(role).0 };
            let on = Resource {
                kind: verb.kind(),
                owner: [None, Some("ann"), Some("bob")][owner],
                project: Some(ProjectId::from_u128(project)),
                id: [&"task_1", &"task_2"][usize::from(owner == 2)],
            };
            let roles = Roles::default().with(role);
            let fresh = old.decide(&old.current.load().policies, &who, roles, Action::Do(verb), &on).unwrap();
            prop_assert_eq!(&*old.ruling(&who, roles, Action::Do(verb), &on), &fresh);
            prop_assert_eq!(&*old.ruling(&who, roles, Action::Do(verb), &on), &fresh);
        }
    }
}
