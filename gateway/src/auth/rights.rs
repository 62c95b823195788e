//! Who may do what: one row for each mutation, and for each query and subscription that is not everybody's.
//!
//! Decides by the principal and the field's name alone, before the field's resolver runs. A mutation without a row is an
//! administrator's, and a test fails until it has one.

use hiveward_runtime::error::{Code, Refused};

use super::Principal;

/// The standing that somebody needs to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Anybody whose token is accepted.
    Client,
    /// An administrator: who changes the cluster, its hosts and what all share, enters a guest, or takes data outside.
    Administrator,
}

use Right::{Administrator, Client};

/// The mutations, by noun and name.
const MUTATIONS: &[(&str, Right)] = &[
    // Tasks, and the questions of who works on them.
    ("answerApproval", Client),
    ("cancelTask", Client),
    ("giveBackTask", Client),
    ("interruptTask", Client),
    ("messageTask", Client),
    ("retryTask", Client),
    ("scatter", Client),
    ("submitTask", Client),
    ("submitTasks", Client),
    ("takeOverTask", Client),
    // Agents and swarms.
    ("cleanWorkspace", Client),
    ("createAgent", Client),
    ("createSwarm", Client),
    ("pauseAgent", Client),
    ("removeAgent", Client),
    ("removeSwarm", Client),
    ("restartAgent", Client),
    ("resumeAgent", Client),
    ("scaleSwarm", Client),
    ("startAgent", Client),
    ("stopAgent", Client),
    // What a VM's user does with it. Its place, its copies outside the host and its inside are below.
    ("attachVmDisk", Client),
    ("attachVmNetwork", Client),
    ("cloneVm", Client),
    ("createVm", Client),
    ("detachVmDisk", Client),
    ("detachVmNetwork", Client),
    ("pauseVm", Client),
    ("rebootVm", Client),
    ("removeVm", Client),
    ("removeVmSnapshot", Client),
    ("resizeVm", Client),
    ("resumeVm", Client),
    ("revertVm", Client),
    ("snapshotVm", Client),
    ("startVm", Client),
    ("stopVm", Client),
    // The inside of a VM.
    ("execInVm", Administrator),
    ("freezeVmFileSystems", Administrator),
    ("typeVmConsole", Administrator),
    // Backups are read and written outside the cluster.
    ("backupVm", Administrator),
    ("cancelVmBackup", Administrator),
    ("drillVmBackup", Administrator),
    ("restoreVm", Administrator),
    ("scheduleVmBackups", Administrator),
    ("unscheduleVmBackups", Administrator),
    // Where VMs are.
    ("cancelVmMigration", Administrator),
    ("migrateVm", Administrator),
    ("rebalance", Administrator),
    // Hosts, and what all VMs share.
    ("cancelHostDrain", Administrator),
    ("createImageFromVm", Administrator),
    ("createNetwork", Administrator),
    ("declareHostLost", Administrator),
    ("drainHost", Administrator),
    ("importImage", Administrator),
    ("registerHost", Administrator),
    ("removeHost", Administrator),
    ("removeImage", Administrator),
    ("removeNetwork", Administrator),
    // The cluster.
    ("createJoinToken", Administrator),
    ("drainNode", Administrator),
    ("injectFault", Administrator),
    ("removeBudget", Administrator),
    ("removeNode", Administrator),
    ("scrub", Administrator),
    ("setBudget", Administrator),
];

/// The queries that not everybody may ask.
const QUERIES: &[(&str, Right)] = &[("faults", Administrator), ("vmBackupCheck", Administrator), ("vmBackups", Administrator)];

/// The subscriptions that not everybody may open.
const SUBSCRIPTIONS: &[(&str, Right)] = &[("vmConsole", Administrator)];

/// Returns what somebody must be to ask for the field `name` of the root type `root`.
pub fn needed(root: &str, name: &str) -> Right {
    let row = |table: &[(&str, Right)]| table.iter().find(|(row, _)| *row == name).map(|(_, right)| *right);
    match root {
        "Mutation" => row(MUTATIONS).unwrap_or(Administrator),
        "Query" => row(QUERIES).unwrap_or(Client),
        _ => row(SUBSCRIPTIONS).unwrap_or(Client),
    }
}

/// Refuses the field `name` of `root` to who may not ask for it; nothing has happened then. Without a principal it admits to
/// what is everybody's alone.
pub fn admit(principal: Option<&Principal>, root: &str, name: &str) -> Result<(), Refused> {
    if principal.is_some_and(|principal| principal.administrator) || needed(root, name) == Client {
        return Ok(());
    }
    Err(Refused::new(
        Code::Forbidden,
        format!("{name} is for administrators: nothing was done; use an administrator's token, such as that in `admin.token`"),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use async_graphql::parser::{
        parse_schema,
        types::{TypeKind, TypeSystemDefinition},
    };

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
    fn every_mutation_has_one_row_and_every_row_a_field() {
        for (root, table) in [("Mutation", MUTATIONS), ("Query", QUERIES), ("Subscription", SUBSCRIPTIONS)] {
            let fields = fields_of(root);
            assert!(!fields.is_empty());
            let rows: BTreeSet<String> = table.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(rows.len(), table.len(), "a name of {root} has two rows");
            assert_eq!(rows.difference(&fields).next(), None, "a row of {root} has no field");
            if root == "Mutation" {
                assert_eq!(fields.difference(&rows).next(), None, "a mutation has no row: say who may do it");
            }
        }
    }

    #[test]
    fn a_client_may_not_do_what_is_an_administrators_nor_what_has_no_row() {
        let (client, administrator) =
            (Principal { name: "ci".into(), administrator: false }, Principal { name: "ops".into(), administrator: true });
        for name in ["declareHostLost", "registerHost", "removeHost", "importImage", "not a mutation"] {
            let refused = admit(Some(&client), "Mutation", name).unwrap_err();
            assert_eq!(refused.code, Code::Forbidden);
            assert!(refused.message.contains(name));
            assert!(admit(None, "Mutation", name).is_err());
            admit(Some(&administrator), "Mutation", name).unwrap();
        }
        admit(Some(&client), "Mutation", "submitTask").unwrap();
        admit(Some(&client), "Query", "tasks").unwrap();
        assert!(admit(Some(&client), "Query", "vmBackups").is_err());
        assert!(admit(Some(&client), "Subscription", "vmConsole").is_err());
    }
}
