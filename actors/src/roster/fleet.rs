//! Changes of hosts and VMs, many in one commit. Those that wait in the mailbox together are decided one after the other, each on
//! what the ones before it will have made, and are answered together when they are in the ledger.

use hiveward_catalogue::{
    host::{
        self,
        event::{FleetChange, FleetEvent},
        fleet::Fleet,
    },
    roster::event::RosterEvent,
};
use hiveward_kernel::{
    commit::{CommitReply, Committed},
    operation::Operation,
};
use hiveward_runtime::{
    call::TellError,
    id::Key,
    supervise::{Context, Failure},
};

use super::{
    RosterMsg,
    actor::{Acting, Roster, not_leading, used_before},
    decide,
};

/// The most changes in one commit; the next ones go into the next.
const AT_ONCE_MAX: usize = 256;

pub(super) struct Waiting {
    pub change: FleetChange,
    pub operation: Option<Operation>,
    pub reply: CommitReply<Key>,
}

/// Changes that are decided with the next commit. Dropped by a node that does not lead any more: nothing of them happened.
#[derive(Default)]
pub(super) struct Fleeting(Vec<Waiting>);

impl Drop for Fleeting {
    fn drop(&mut self) {
        for waiting in self.0.drain(..) {
            waiting.reply.answer(Err(not_leading()));
        }
    }
}

impl Roster {
    /// Takes a change in. It is decided once the mailbox was looked through, or at once if as many wait as go together.
    pub(super) async fn wait_for_fleet(
        &self,
        ctx: &Context<RosterMsg>,
        acting: &mut Acting,
        waiting: Waiting,
    ) -> Result<(), Failure> {
        acting.fleet.0.push(waiting);
        let first = acting.fleet.0.len() == 1;
        let alone = first && matches!(ctx.addr().tell(RosterMsg::CommitFleet), Err(TellError::Busy(_) | TellError::Gone(_)));
        if alone || acting.fleet.0.len() >= AT_ONCE_MAX {
            self.commit_fleet(acting).await?;
        }
        Ok(())
    }

    pub(super) async fn commit_fleet(&self, acting: &mut Acting) -> Result<(), Failure> {
        let mut waiting = std::mem::take(&mut acting.fleet.0).into_iter().peekable();
        while waiting.peek().is_some() {
            // A new host is placed on a node by what is placed already, so it is decided alone.
            let placed = |waiting: &Waiting| matches!(waiting.change, FleetChange::AddHost { .. });
            let mut together = Vec::new();
            while let Some(next) = waiting.next_if(|next| together.is_empty() || !placed(next)) {
                let ends = placed(&next);
                together.push(next);
                if ends {
                    break;
                }
            }
            self.commit_together(acting, together).await?;
        }
        Ok(())
    }

    async fn commit_together(&self, acting: &mut Acting, together: Vec<Waiting>) -> Result<(), Failure> {
        let now = self.house.clock.now();
        let (mut events, mut answers) = (Vec::new(), Vec::new());
        let declared_before = |waiting: &Waiting| match &waiting.operation {
            Some(operation) => self.house.declared_before(operation),
            None => Ok(None),
        };
        let together: Vec<_> = together.into_iter().map(|waiting| (declared_before(&waiting), waiting)).collect();
        self.house.directory.read(|known| {
            // For one change alone no copy has to be made up.
            let mut fleet: Option<Fleet> = None;
            let mut made: Vec<(Operation, Key)> = Vec::new();
            let many = together.len() > 1;
            for (declared, Waiting { change, operation, reply }) in together {
                let key = change.key();
                let declared = match declared {
                    Ok(declared) => declared,
                    Err(refused) => {
                        answers.push((reply, Err(refused)));
                        continue;
                    }
                };
                let before = operation.as_ref().and_then(|operation| {
                    let here =
                        made.iter().find(|(other, _)| other.id == operation.id).map(|(other, key)| (other.input, key.clone()));
                    Some((operation, here.or(declared)?))
                });
                if let Some((operation, (input, key))) = before {
                    answers.push((reply, used_before(operation, input, key)));
                    continue;
                }
                let decided = match &mut fleet {
                    None => decide::fleet(known, &change, operation.as_ref()),
                    Some(fleet) => decide::may_belong(known, fleet, &change)
                        .and_then(|()| host::decide::decide(fleet, &change, operation.as_ref()))
                        .map(|events| events.into_iter().map(RosterEvent::Fleet).collect()),
                };
                match decided {
                    Err(refused) => answers.push((reply, Err(refused))),
                    Ok(decided) => {
                        if many {
                            let fleet = fleet.get_or_insert_with(|| known.fleet.clone());
                            decided.iter().filter_map(of_fleet).for_each(|event| fleet.apply(event, now));
                        }
                        made.extend(operation.map(|operation| (operation, key.clone())));
                        events.push((reply.asker().cloned(), decided));
                        answers.push((reply, Ok(key)));
                    }
                }
            }
        });
        let cursor = self.commit_for(acting, events).await?;
        for (reply, answer) in answers {
            reply.answer(answer.map(|value| Committed { value, cursor }));
        }
        Ok(())
    }
}

fn of_fleet(event: &RosterEvent) -> Option<&FleetEvent> {
    if let RosterEvent::Fleet(event) = event { Some(event) } else { None }
}
