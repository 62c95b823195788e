//! Images: bringing, removing and listing them.

use std::{ops::Bound, sync::Arc, time::Duration};

use hiveward_access::{resource::ResourceKind, verb::Verb};
use hiveward_catalogue::host::{event::FleetChange, fleet::ImageEntry, image::ImageSpec};
use hiveward_kernel::{id::ImageId, page::Page};
use hiveward_machines::host::image::import::Wanted;
use hiveward_runtime::{
    error::{Code, Refused},
    op::Op,
};

use super::{ControlPlane, Done, check, command::operation, query::page_key};
use crate::client::access::Sought;

/// What is left of a deadline to make an image of what was brought.
const MARGIN: Duration = Duration::from_secs(2);

/// An image that a client asks for.
#[derive(Clone, Debug)]
pub struct NewImage {
    pub name: String,
    /// The place to take it from: an absolute path on the node that is asked, or an HTTP URL.
    pub source: String,
    /// The expected checksum, `sha256:…` or `blake3:…`.
    pub checksum: Option<String>,
}

impl ControlPlane {
    /// Imports an image; its bytes are kept, on enough nodes, when this answers. What takes longer than the deadline goes on: the
    /// answer is `Busy`, and the same request again waits for it.
    pub async fn import_image(&self, op: Op, new: NewImage) -> Result<Done<ImageEntry>, Refused> {
        let op = self.may(op, Verb::ImportImage, Sought::Cluster(ResourceKind::Cluster)).await?;
        self.takes_writes()?;
        let operation = operation(&op, &new);
        check::name("name", &new.name)?;
        let wanted = Wanted::parse(&new.source, new.checksum.as_deref())?;
        self.settled(&op).await?;
        let repeated = operation.is_some();
        if !repeated && self.image_named(&new.name).is_some() {
            let message = format!("there is an image named {:?} already; remove it, or choose another name", new.name);
            return Err(Refused { field: Some("name".into()), ..Refused::new(Code::Conflict, message) });
        }
        let within = op.deadline.remaining().saturating_sub(MARGIN);
        let kept = self
            .house
            .machines
            .imports
            .bring(&self.house.blobs, &wanted, hiveward_runtime::clock::Deadline::after(within))
            .await?;
        let spec = Arc::new(ImageSpec {
            id: ImageId::new(),
            name: new.name,
            hash: kept.hash,
            bytes: kept.bytes,
            virtual_bytes: kept.virtual_bytes,
            format: kept.format,
            source: wanted.shown(),
            only_for: None,
            project: self.project(),
        });
        let done = self.change_fleet(&op, FleetChange::AddImage { spec }, operation).await?;
        self.known_at(&op, done.cursor).await?;
        let image = ImageId::try_from(&done.value).map_err(|error| Refused::new(Code::Internal, error.to_string()))?;
        let value = self.image(image).ok_or_else(|| Refused::not_found(image))?;
        Ok(Done { value, cursor: done.cursor })
    }

    /// Removes an image; refused while a VM is made of it. Hosts remove their copies when no disk is left that was made of them.
    /// The value is absent where the same operation has removed it before.
    pub async fn remove_image(&self, op: Op, image: ImageId) -> Result<Done<Option<ImageEntry>>, Refused> {
        let op = self.may(op, Verb::RemoveImage, image).await?;
        let operation = operation(&op, &("remove-image", image));
        let entry = self.surely(&op, |directory| directory.read(|known| known.fleet.images.get(&image).cloned()));
        let value = entry.await?;
        let done = self.change_fleet(&op, FleetChange::RemoveImage { image }, operation).await?;
        self.known_at(&op, done.cursor).await?;
        Ok(Done { value, cursor: done.cursor })
    }

    /// Returns an image as this node's directory has it.
    pub fn image(&self, image: ImageId) -> Option<ImageEntry> {
        self.house.directory.read(|known| known.fleet.images.get(&image).cloned()).filter(|_| self.sees(image))
    }

    /// Returns the image with this name.
    pub fn image_named(&self, name: &str) -> Option<ImageId> {
        self.house.directory.read(|known| known.fleet.image_named(self.project(), name)).filter(|image| self.sees(*image))
    }

    /// Lists the images in the order of their import, without those that are for one VM only.
    pub fn images(&self, after: Option<&str>, first: usize) -> Result<Page<ImageEntry>, Refused> {
        let from = after.map(page_key::<ImageId>).transpose()?.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.house.directory.read(|known| {
            let mut page = Page::default();
            let all = known.fleet.images.range((from, Bound::Unbounded));
            for (image, entry) in
                all.filter(|(id, entry)| entry.spec.only_for.is_none() && self.sees_in(known, Sought::Image(**id)))
            {
                if page.items.len() == first {
                    page.has_next = true;
                    break;
                }
                page.last_seen = Some(image.to_string());
                page.items.push((image.to_string(), entry.clone()));
            }
            page
        }))
    }
}
