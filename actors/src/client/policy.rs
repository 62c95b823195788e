//! Policies beside the roles: applied, tried, removed and shown here.

use hiveward_access::{policy::PolicySource, resource::ResourceKind, verb::Verb};
use hiveward_catalogue::part::{
    PartChange,
    policy::{PolicyChange, PolicyText},
};
use hiveward_runtime::{error::Refused, op::Op};

use super::{ControlPlane, Done, access::Sought, check};

impl ControlPlane {
    /// Puts a text of policies in the place of the one with this name, or adds it. Errors: `Invalid` with line and column if it
    /// does not fit; nothing has changed then.
    pub async fn apply_policy(&self, op: Op, name: String, text: String) -> Result<Done<String>, Refused> {
        let op = self.may(op, Verb::ApplyPolicy, Sought::Cluster(ResourceKind::Policy)).await?;
        check::name("name", &name)?;
        self.check_policy(&name, &text)?;
        let asked = ("apply-policy", name.clone(), hiveward_runtime::store::blob::fingerprint(text.as_bytes()));
        let change = PartChange::Policy(PolicyChange::Apply { name: name.clone(), text });
        let done = self.change_part(&op, &asked, change).await?;
        Ok(Done { value: name, cursor: done.cursor })
    }

    /// Removes a text of policies.
    pub async fn remove_policy(&self, op: Op, name: String) -> Result<Done<String>, Refused> {
        let op = self.may(op, Verb::RemovePolicy, Sought::Cluster(ResourceKind::Policy)).await?;
        let change = PartChange::Policy(PolicyChange::Remove { name: name.clone() });
        let done = self.change_part(&op, &("remove-policy", name.clone()), change).await?;
        Ok(Done { value: name, cursor: done.cursor })
    }

    /// Tells who may apply it whether a text of policies would fit, and changes nothing. Errors: as for applying it.
    pub async fn try_policy(&self, op: Op, name: &str, text: &str) -> Result<(), Refused> {
        self.may(op, Verb::ApplyPolicy, Sought::Cluster(ResourceKind::Policy)).await?;
        self.check_policy(name, text)
    }

    fn check_policy(&self, name: &str, text: &str) -> Result<(), Refused> {
        let others = self.policies().into_iter().filter(|(other, _)| other != name);
        let others = others.map(|(name, policy)| PolicySource { name: name.into(), text: policy.text.into() });
        let sources: Vec<_> = others.chain([PolicySource { name: name.into(), text: text.into() }]).collect();
        self.court.check(&sources).map_err(|bad| Refused::invalid("text", format!("{bad}; nothing changed")))
    }

    /// Lists the texts of policies by name.
    pub fn policies(&self) -> Vec<(String, PolicyText)> {
        self.house.directory.read(|known| {
            let all = known.parts.policies.all.iter();
            all.map(|(name, policy)| (name.clone(), policy.clone())).collect()
        })
    }
}
