//! Images: their type, queries and mutations.

use async_graphql::{Context, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::{self, Done, NewImage};
use hiveward_catalogue::host::fleet::ImageEntry;
use hiveward_kernel::id::ImageId;
use hiveward_runtime::error::Refused;

use super::{
    Result, caught_up, door, op,
    page::{self, Pages},
    parse,
    scalars::{BigInt, Cursor, DateTime},
};
use crate::schema::access::Project;
use crate::schema::{door_in, op_in};

/// What the disks of VMs begin as.
#[derive(Clone)]
pub struct Image(pub ImageEntry);

impl From<ImageEntry> for Image {
    fn from(entry: ImageEntry) -> Self {
        Self(entry)
    }
}

#[Object]
impl Image {
    pub(super) async fn id(&self) -> ID {
        self.0.spec.id.to_string().into()
    }
    /// The project that it belongs to.
    async fn project(&self, ctx: &Context<'_>) -> Result<Option<Project>> {
        Project::find(ctx, self.0.spec.project)
    }
    /// Unique in its project.
    async fn name(&self) -> &str {
        &self.0.spec.name
    }
    /// BLAKE3 of its bytes, by which they are kept.
    async fn hash(&self) -> &str {
        &self.0.spec.hash
    }
    /// Of its file.
    async fn bytes(&self) -> BigInt {
        BigInt(self.0.spec.bytes)
    }
    /// Of the disk that it is.
    async fn virtual_bytes(&self) -> BigInt {
        BigInt(self.0.spec.virtual_bytes)
    }
    /// `qcow2` or `raw`.
    async fn format(&self) -> &str {
        self.0.spec.format.name()
    }
    /// Where it came from, without what may be secret of that.
    async fn source(&self) -> &str {
        &self.0.spec.source
    }
    /// VMs that are made of it; while there are any it is not removed.
    async fn vm_count(&self) -> u32 {
        self.0.vms
    }
    async fn added_at(&self) -> DateTime {
        self.0.added_at.into()
    }
}

#[derive(InputObject)]
pub struct ImportImageInput {
    operation_id: Option<ID>,
    /// Unique in its project.
    name: String,
    /// By key or name; the caller's own if absent, or else `default`.
    project: Option<ID>,
    /// An absolute path on the node that is asked, or an `http` or `https` URL.
    source: String,
    /// `sha256:…` or `blake3:…`; other bytes are refused.
    checksum: Option<String>,
}

#[derive(InputObject)]
pub struct RemoveImageInput {
    operation_id: Option<ID>,
    /// By key or name.
    image: ID,
}

#[derive(Default)]
pub struct ImageQuery;

#[Object]
impl ImageQuery {
    async fn images(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        at_least: Option<Cursor>,
    ) -> Result<Pages<Image>> {
        caught_up(ctx, at_least).await?;
        let after = after.as_deref();
        Ok(page::connection(door(ctx)?.images(after, page::first(first)?)?, after))
    }
}

/// The payloads of all image mutations have the same shape and each its own name.
macro_rules! payloads {
    ($($name:ident),+) => {$(
        #[derive(SimpleObject)]
        pub struct $name {
            image: Image,
            cursor: Cursor,
        }

        impl From<Done<ImageEntry>> for $name {
            fn from(done: Done<ImageEntry>) -> Self {
                Self { image: done.value.into(), cursor: done.cursor.into() }
            }
        }
    )+};
}

payloads!(ImportImagePayload);

#[derive(SimpleObject)]
pub struct RemoveImagePayload {
    /// As it was; absent where the same operation has removed it before.
    image: Option<Image>,
    cursor: Cursor,
}

impl From<Done<Option<ImageEntry>>> for RemoveImagePayload {
    fn from(done: Done<Option<ImageEntry>>) -> Self {
        Self { image: done.value.map(Image::from), cursor: done.cursor.into() }
    }
}

#[derive(Default)]
pub struct ImageMutation;

#[Object]
impl ImageMutation {
    /// Its bytes are kept when it answers. `BUSY` says that they are still on their way: ask the same again.
    async fn import_image(&self, ctx: &Context<'_>, input: ImportImageInput) -> Result<ImportImagePayload> {
        let new = NewImage { name: parse::name("name", input.name)?, source: input.source, checksum: input.checksum };
        let control = door_in(ctx, input.project.as_ref())?;
        Ok(control.import_image(op_in(ctx, &control, input.operation_id.as_ref())?, new).await?.into())
    }
    /// Refused while a VM is made of it. Hosts remove their copies when no disk is made of them any more.
    async fn remove_image(&self, ctx: &Context<'_>, input: RemoveImageInput) -> Result<RemoveImagePayload> {
        let (control, op) = (door(ctx)?, op(ctx, input.operation_id.as_ref())?);
        let image = image_id(ctx, &input.image).or_else(|unknown| control.was_about(&op).ok_or(unknown))?;
        Ok(control.remove_image(op, image).await?.into())
    }
}

fn image_id(ctx: &Context<'_>, given: &ID) -> Result<ImageId> {
    parse::reference("image", given)?;
    if given.starts_with("image_") {
        return Ok(parse::id("image", given)?);
    }
    let found = door(ctx)?.image_named(given);
    let unknown = || Refused { field: Some("image".into()), ..Refused::not_found(format!("image named {:?}", given.as_str())) };
    Ok(found.ok_or_else(unknown)?)
}

pub(super) fn find(control: &client::ControlPlane, id: &ID) -> Result<Option<Image>, Refused> {
    Ok(control.image(parse::id("id", id)?).map(Image::from))
}
