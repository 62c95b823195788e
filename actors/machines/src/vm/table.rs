//! The view of all VMs. Owns its tables; built from the roster and the VMs' streams.

use std::collections::HashMap;

use hiveward_catalogue::{host::event::FleetEvent, roster::event::RosterEvent};
use hiveward_kernel::{
    id::{HostId, VmId},
    page::Page,
    view::unreadable,
};
use hiveward_runtime::{
    error::Refused,
    ledger::{
        Cursor, Event,
        row::{pack, unpack},
        view::{TableWalk, View, ViewError, Views, copy_table},
    },
};
use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use super::{
    event::{Seen, VmEvent},
    ha::{COME_BACKS_KEPT_MAX, ComeBack},
    record::{VmRecord, VmStatus},
    state::VmState,
};

const ROWS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("vms");
const BY_HOST: TableDefinition<'_, (u128, u128), ()> = TableDefinition::new("vms_by_host");

/// Builder of the tables.
pub struct VmView;

impl View for VmView {
    fn name(&self) -> &'static str {
        "vms"
    }

    fn format(&self) -> u32 {
        1
    }

    fn prepare(&self, txn: &WriteTransaction) -> Result<(), ViewError> {
        txn.open_table(ROWS)?;
        txn.open_table(BY_HOST)?;
        Ok(())
    }

    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<(), ViewError> {
        copy_table(ROWS, from, to)?;
        copy_table(BY_HOST, from, to)?;
        Ok(())
    }

    fn check(&self, txn: &ReadTransaction, walk: &mut TableWalk) -> Result<(), ViewError> {
        walk.table(ROWS, txn, |id, row| unpack::<VmRecord>(id, row).map(drop))?;
        walk.keys(BY_HOST, txn)?;
        Ok(())
    }

    fn apply(&self, txn: &WriteTransaction, events: &[Event]) -> Result<(), ViewError> {
        let mut rows = Rows { txn, changed: HashMap::new() };
        for event in events {
            match event.stream.noun() {
                VmId::NOUN => rows.lifecycle(event)?,
                RosterEvent::NOUN
                    if matches!(
                        &*event.kind,
                        "VmAdded"
                            | "VmRemoved"
                            | "VmMoved"
                            | "VmFound"
                            | "VmComesBack"
                            | "HostRemoved"
                            | "VmReshaped"
                            | "VmTaken"
                    ) =>
                {
                    rows.roster(event)?
                }
                _ => {}
            }
        }
        rows.write()
    }
}

/// Rows of the view that these events change.
struct Rows<'a> {
    txn: &'a WriteTransaction,
    /// Records by VM; `None` for one that was removed. The flag says that the row is new.
    changed: HashMap<VmId, (Option<VmRecord>, bool)>,
}

impl Rows<'_> {
    fn get(&mut self, id: VmId) -> Result<Option<&mut VmRecord>, ViewError> {
        if !self.changed.contains_key(&id) {
            let rows = self.txn.open_table(ROWS)?;
            let Some(row) = rows.get(id.as_u128())? else { return Ok(None) };
            let record = unpack(id.as_u128(), row.value())?;
            self.changed.insert(id, (Some(record), false));
        }
        Ok(self.changed.get_mut(&id).and_then(|(record, _)| record.as_mut()))
    }

    fn roster(&mut self, event: &Event) -> Result<(), ViewError> {
        let RosterEvent::Fleet(what) = RosterEvent::decode(&event.kind, event.format, &event.body)? else { return Ok(()) };
        match what {
            FleetEvent::VmAdded { spec, host, decision, .. } => {
                let state = VmState::new(&spec, event.at);
                let record = VmRecord {
                    spec: spec.clone(),
                    host,
                    decision,
                    status: state.status(),
                    state,
                    created_at: event.at,
                    started_at: None,
                    cursor: event.cursor.0,
                    come_backs: Vec::new(),
                };
                self.changed.insert(spec.id, (Some(record), true));
            }
            FleetEvent::VmRemoved { vm, .. } => self.remove(vm)?,
            FleetEvent::VmMoved { vm, from, to } | FleetEvent::VmFound { vm, from, to } => {
                self.hand_over(vm, from, to, event.cursor)?
            }
            FleetEvent::VmReshaped { vm, shape, .. } => {
                if let Some(record) = self.get(vm)? {
                    record.spec = std::sync::Arc::new(record.spec.shaped(&shape));
                    record.cursor = event.cursor.0;
                }
            }
            FleetEvent::VmTaken { vm, lease, .. } => {
                if let Some(record) = self.get(vm)? {
                    record.spec = std::sync::Arc::new(record.spec.taken(lease));
                    record.cursor = event.cursor.0;
                }
            }
            FleetEvent::VmComesBack { vm, from, to, epoch, decision } => {
                self.hand_over(vm, from, to, event.cursor)?;
                if let Some(record) = self.get(vm)? {
                    record.decision = decision.clone();
                    // It was seen where it was: of this place nothing is known yet, and nothing of it runs there before.
                    record.state.apply(&VmEvent::Seen { seen: Seen::Absent, epoch }, event.at);
                    record.status = record.state.status();
                    record.started_at = None;
                    record.come_backs.push(ComeBack { at: event.at, from, to, epoch, decision });
                    let over = record.come_backs.len().saturating_sub(COME_BACKS_KEPT_MAX);
                    record.come_backs.drain(..over);
                }
            }
            FleetEvent::HostRemoved { host, .. } => {
                let low = (host.as_u128(), 0);
                let there: Vec<VmId> = {
                    let by_host = self.txn.open_table(BY_HOST)?;
                    let on = by_host.range(low..=(host.as_u128(), u128::MAX))?;
                    on.map(|row| Ok(VmId::from_u128(row?.0.value().1))).collect::<Result<_, ViewError>>()?
                };
                let new =
                    self.changed.iter().filter(|(_, (record, _))| record.as_ref().is_some_and(|record| record.host == host));
                let new: Vec<_> = new.map(|(vm, _)| *vm).collect();
                for vm in there.into_iter().chain(new) {
                    self.remove(vm)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn hand_over(&mut self, vm: VmId, from: HostId, to: HostId, cursor: Cursor) -> Result<(), ViewError> {
        if let Some(record) = self.get(vm)? {
            record.host = to;
            record.cursor = cursor.0;
            let mut by_host = self.txn.open_table(BY_HOST)?;
            by_host.remove((from.as_u128(), vm.as_u128()))?;
            by_host.insert((to.as_u128(), vm.as_u128()), ())?;
        }
        Ok(())
    }

    fn remove(&mut self, vm: VmId) -> Result<(), ViewError> {
        if let Some(host) = self.get(vm)?.map(|record| record.host) {
            self.txn.open_table(BY_HOST)?.remove((host.as_u128(), vm.as_u128()))?;
            self.txn.open_table(ROWS)?.remove(vm.as_u128())?;
            self.changed.insert(vm, (None, false));
        }
        Ok(())
    }

    fn lifecycle(&mut self, event: &Event) -> Result<(), ViewError> {
        let id = VmId::try_from(&event.stream)?;
        let what = VmEvent::decode(&event.kind, event.format, &event.body)?;
        let Some(record) = self.get(id)? else { return Ok(()) };
        let was_on = record.state.is_on();
        record.state.apply(&what, event.at);
        record.status = record.state.status();
        record.cursor = event.cursor.0;
        match (was_on, record.state.is_on()) {
            (false, true) => record.started_at = Some(event.at),
            (true, false) => record.started_at = None,
            _ => {}
        }
        Ok(())
    }

    fn write(self) -> Result<(), ViewError> {
        let mut rows = self.txn.open_table(ROWS)?;
        let mut by_host = self.txn.open_table(BY_HOST)?;
        for (id, (record, new)) in self.changed {
            let Some(record) = record else { continue };
            rows.insert(id.as_u128(), pack(id.as_u128(), &record)?.as_slice())?;
            if new {
                by_host.insert((record.host.as_u128(), id.as_u128()), ())?;
            }
        }
        Ok(())
    }
}

/// What a query wants of the VMs; empty wants all.
#[derive(Clone, Debug, Default)]
pub struct VmFilter {
    pub status: Vec<VmStatus>,
    pub host: Option<HostId>,
    pub name_contains: Option<String>,
}

impl VmFilter {
    fn wants(&self, record: &VmRecord) -> bool {
        (self.status.is_empty() || self.status.contains(&record.status))
            && self.host.is_none_or(|host| record.host == host)
            && self.name_contains.as_ref().is_none_or(|part| record.spec.name.to_lowercase().contains(&part.to_lowercase()))
    }
}

/// Reader of the tables.
#[derive(Clone)]
pub struct VmTable {
    views: Views,
}

impl VmTable {
    /// Returns a reader of these views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// Returns the record of a VM; `None` if there is no such VM.
    pub fn get(&self, id: VmId) -> Result<Option<VmRecord>, Refused> {
        Ok(self.get_many(&[id])?.pop().flatten())
    }

    /// Returns the records of these VMs, in the same order; `None` for each that does not exist.
    pub fn get_many(&self, ids: &[VmId]) -> Result<Vec<Option<VmRecord>>, Refused> {
        let read = || -> Result<Vec<Option<VmRecord>>, ViewError> {
            let txn = self.views.read()?;
            let rows = txn.open_table(ROWS)?;
            ids.iter().map(|id| rows.get(id.as_u128())?.map(|row| Ok(unpack(id.as_u128(), row.value())?)).transpose()).collect()
        };
        read().map_err(unreadable)
    }

    /// Returns a page of the VMs in order of creation. `shown` has the last word on a record before it is filtered.
    pub fn page(
        &self,
        filter: &VmFilter,
        after: Option<VmId>,
        first: usize,
        shown: impl Fn(&mut VmRecord),
    ) -> Result<Page<VmRecord>, Refused> {
        let read = || -> Result<Page<VmRecord>, ViewError> {
            let txn = self.views.read()?;
            let rows = txn.open_table(ROWS)?;
            let mut page = Page::default();
            let mut take = |id: u128, bytes: &[u8]| -> Result<bool, ViewError> {
                let mut record: VmRecord = unpack(id, bytes)?;
                shown(&mut record);
                if !filter.wants(&record) {
                    return Ok(true);
                }
                if page.items.len() == first {
                    page.has_next = true;
                    return Ok(false);
                }
                let key = VmId::from_u128(id).to_string();
                page.last_seen = Some(key.clone());
                page.items.push((key, record));
                Ok(true)
            };
            let from = after.map_or(std::ops::Bound::Unbounded, |after| std::ops::Bound::Excluded(after.as_u128()));
            match filter.host {
                Some(host) => {
                    let by_host = txn.open_table(BY_HOST)?;
                    let from = from.map(|vm| (host.as_u128(), vm));
                    let from =
                        if from == std::ops::Bound::Unbounded { std::ops::Bound::Included((host.as_u128(), 0)) } else { from };
                    for row in by_host.range::<(u128, u128)>((from, std::ops::Bound::Included((host.as_u128(), u128::MAX))))? {
                        let (_, vm) = row?.0.value();
                        let Some(bytes) = rows.get(vm)? else { continue };
                        if !take(vm, bytes.value())? {
                            break;
                        }
                    }
                }
                None => {
                    for row in rows.range::<u128>((from, std::ops::Bound::Unbounded))? {
                        let (id, bytes) = row?;
                        if !take(id.value(), bytes.value())? {
                            break;
                        }
                    }
                }
            }
            Ok(page)
        };
        read().map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use hiveward_catalogue::vm::testing::spec;
    use hiveward_runtime::clock::WallMs;

    use super::*;

    #[test]
    fn a_vm_kept_by_a_build_without_the_newest_fields_is_read() {
        let state = VmState::new(&spec(), WallMs(7));
        let row = rmp_serde::to_vec(&state).expect("it is kept");
        // A sequence of more than 15 begins with its length; the last two are why it is withheld, and where it ran.
        let [0xdc, high, low, fields @ .., 0xc0, 0x00] = row.as_slice() else { panic!("{row:x?}") };
        let before = u16::from_be_bytes([*high, *low]) - 2;
        let older = [&[0xdc], before.to_be_bytes().as_slice(), fields].concat();
        assert_eq!(rmp_serde::from_slice::<VmState>(&older).expect("it is read"), state);
    }
}
