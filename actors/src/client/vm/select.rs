//! The host that a VM would be placed on: it is only asked, and nothing is changed.

use hiveward_catalogue::{
    host::placing,
    placement::vm::{Decision, Engine, Need, Reject, Weights, Wish},
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::error::Refused;

use super::{NewVm, new::check_new};
use crate::client::ControlPlane;

/// The verdict on one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub host: HostId,
    pub name: String,
    /// The score of the host, or the reason why it is left out.
    pub score: Result<f32, Reject>,
}

/// A decision with all that it was made from.
#[derive(Clone, Debug)]
pub struct HostSelection {
    /// The decision, or the reason why such a VM would be refused.
    pub decision: Result<Decision, Refused>,
    /// The verdicts, the best first, then those on hosts that are left out.
    pub verdicts: Vec<Verdict>,
}

impl ControlPlane {
    /// Decides where this VM would be placed if it were made now. Of equal hosts the one that is taken depends on the id that the
    /// VM will have. Errors: `Invalid` with the field, and `NotFound` for a host that is none.
    pub fn select_host(&self, new: &NewVm) -> Result<HostSelection, Refused> {
        check_new(new)?;
        let vm = VmId::new();
        let wish = Wish {
            need: Need::of(new.cpus, new.memory_bytes),
            strategy: new.strategy,
            weights: Weights::default(),
            pin: new.host,
            zone: new.zone.as_deref(),
            labels: &new.host_labels,
            anti_affinity: &new.anti_affinity,
            affinity: &new.affinity,
            overlay: false,
            turn: vm.as_u128() as u64,
        };
        self.house.directory.read(|known| {
            let cards = hiveward_catalogue::host::network::book::cards(&known.fleet, self.project(), vm, &new.networks, &[])?;
            let wish = Wish { overlay: cards.iter().any(|card| card.overlay), ..wish };
            let mut engine = Engine::default();
            let decision = placing::select(&known.fleet, &mut engine, vm, &wish, new.ha, |_| true)?;
            let trace = engine.trace();
            // Both are in the order of the columns.
            let hosts = known.fleet.hosts.values().zip(trace.rejects.iter().zip(&trace.scores));
            let verdict = |(entry, (reject, score)): (&hiveward_catalogue::host::fleet::HostEntry, (&Reject, &f32))| Verdict {
                host: entry.spec.id,
                name: entry.spec.name.clone(),
                score: if *reject == Reject::None { Ok(*score) } else { Err(*reject) },
            };
            let mut verdicts: Vec<_> = hosts.map(verdict).collect();
            let score = |verdict: &Verdict| verdict.score.unwrap_or(f32::NEG_INFINITY);
            let chosen = decision.as_ref().ok().map(|decision| decision.chosen);
            verdicts.sort_by(|a, b| {
                let first = |verdict: &Verdict| Some(verdict.host) != chosen;
                first(a).cmp(&first(b)).then(score(b).total_cmp(&score(a))).then_with(|| a.name.cmp(&b.name))
            });
            Ok(HostSelection { decision, verdicts })
        })
    }
}
