//! Images and VMs that are made of a VM, as its disks are at one moment; it runs on meanwhile.

use hiveward_access::verb::Verb;
use hiveward_kernel::id::{HostId, ImageId, VmId};
use hiveward_machines::vm::{
    event::{OperationKind, Subject},
    record::VmRecord,
    state::Ask,
};
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};

use super::{
    super::{ControlPlane, Done, check, command::operation},
    LOOK_SOON,
};

/// A VM that is made of another one.
#[derive(Clone, Debug)]
pub struct NewClone {
    pub name: String,
    /// The host to make it on; the best one if absent.
    pub host: Option<HostId>,
    pub start: bool,
}

impl ControlPlane {
    /// Makes a VM like this one, with disks that begin as this one's are now, and an id, a name, addresses and a first boot of
    /// its own. What takes long goes on when this has answered; the VM is there when the operation has succeeded. One that does
    /// not succeed leaves nothing.
    pub async fn clone_vm(&self, op: Op, vm: VmId, new: NewClone) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::CloneVm, vm).await?;
        check::name("name", &new.name)?;
        if let Some(host) = new.host
            && self.host(host).is_none()
        {
            return Err(Refused { field: Some("host".into()), ..Refused::not_found(host) });
        }
        // Its id is made up each time and is no part of what is asked.
        let asked = operation(&op, &("clone", vm, &new));
        self.known_vm(&op, vm).await?;
        if asked.is_none() && self.vm_named(&new.name).is_some() {
            let message = format!("there is a VM named {:?} already; choose another name", new.name);
            return Err(Refused { field: Some("name".into()), ..Refused::new(Code::Conflict, message) });
        }
        let subject = Subject::Clone { vm: VmId::new(), name: new.name.as_str().into(), on: new.host, start: new.start };
        let ask = Ask { subject: Some(subject), ..Ask::new(OperationKind::Clone, op.principal.clone(), asked) };
        self.copy_vm(op, vm, ask).await
    }

    /// Makes an image of its system disk, which other VMs can be made of from then on. As with a clone, what takes long goes on.
    pub async fn make_image_of_vm(&self, op: Op, vm: VmId, name: String) -> Result<Done<VmRecord>, Refused> {
        let op = self.may(op, Verb::CreateImageFromVm, vm).await?;
        check::name("name", &name)?;
        let asked = operation(&op, &("template", vm, &name));
        self.known_vm(&op, vm).await?;
        if asked.is_none() && self.image_named(&name).is_some() {
            let message = format!("there is an image named {name:?} already; remove it, or choose another name");
            return Err(Refused { field: Some("name".into()), ..Refused::new(Code::Conflict, message) });
        }
        let subject = Subject::Template { image: ImageId::new(), name: name.into() };
        let ask = Ask { subject: Some(subject), ..Ask::new(OperationKind::Template, op.principal.clone(), asked) };
        self.copy_vm(op, vm, ask).await
    }

    async fn copy_vm(&self, op: Op, vm: VmId, ask: Ask) -> Result<Done<VmRecord>, Refused> {
        let asked = self.ask_vm(&op, vm, ask).await?;
        let op = Op { deadline: op.deadline.at_most(LOOK_SOON), ..op };
        self.vm_ended(&op, vm, asked.value, asked.cursor).await
    }
}
