// Images that VMs are made of: what there is, taking one in, taking one out.
import { HardDriveDownload, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { useAll } from '../live/use_all';
import { ConfirmButton, useAct } from '../ui/act';
import { bytes, many } from '../ui/figures';
import { FormButton, NameField, TextField } from '../ui/form';
import { Empty, Panel, ProblemNote } from '../ui/shown';
import { Ago } from '../ui/time';
import { FLEET_PAGE, touchesFleet } from './query';

const IMAGES = graphql(`
  query Images($first: Int, $after: String, $atLeast: Cursor) {
    images(first: $first, after: $after, atLeast: $atLeast) {
      nodes { id name format bytes virtualBytes hash source vmCount addedAt }
      pageInfo { endCursor hasNextPage }
    }
  }
`);
const IMPORT = graphql(`mutation ImportImage($input: ImportImageInput!) { importImage(input: $input) { cursor } }`);
const REMOVE = graphql(`mutation RemoveImage($input: RemoveImageInput!) { removeImage(input: $input) { cursor } }`);

export function Images() {
  const images = useAll(
    IMAGES,
    {},
    (data) => data.images,
    (event) => event.kind.startsWith('Image') || touchesFleet(event),
    { page: FLEET_PAGE },
  );
  const remove = useAct(REMOVE, images.refresh);
  return (
    <Panel title="Images" live={images} right={<ImportImage done={images.refresh} />}>
      {images.problem && <ProblemNote problem={images.problem} retry={images.refresh} at={images.at} />}
      {images.rows.length === 0 && !images.loading ? (
        <Empty title="There are no images">
          Take one in here, or with <code>hiveward image import NAME FILE-OR-URL</code>. Simulated hosts need none.
        </Empty>
      ) : (
        <section className="scroll-x" tabIndex={0} aria-label="Images">
          <table className="plain">
            <thead>
              <tr>
                <th>Name</th>
                <th>Format</th>
                <th>File</th>
                <th>Disk</th>
                <th>VMs</th>
                <th>From</th>
                <th>Taken in</th>
                <th aria-label="Actions" />
              </tr>
            </thead>
            <tbody>
              {images.rows.map((image) => (
                <tr key={image.id}>
                  <td title={image.hash}>{image.name}</td>
                  <td>{image.format}</td>
                  <td className="num">{bytes(image.bytes)}</td>
                  <td className="num">{bytes(image.virtualBytes)}</td>
                  <td className="num">{image.vmCount}</td>
                  <td className="wrap">{image.source}</td>
                  <td style={{ whiteSpace: 'nowrap' }}>
                    <Ago at={image.addedAt} />
                  </td>
                  <td>
                    <ConfirmButton
                      act={remove}
                      input={{ image: image.id }}
                      done={`${image.name} is removed.`}
                      title={`Remove the image ${image.name}?`}
                      consequence={
                        image.vmCount === 0
                          ? 'No VM can be made of it any more. Hosts remove their copies.'
                          : `${many(image.vmCount, 'VM')} ${image.vmCount === 1 ? 'is' : 'are'} made of it: this is refused.`
                      }
                      confirm="Remove"
                      leftSection={<Trash2 size={14} />}
                    >
                      Remove
                    </ConfirmButton>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </Panel>
  );
}

function ImportImage({ done }: { done: () => void }) {
  const [name, setName] = useState('');
  const [source, setSource] = useState('');
  const [checksum, setChecksum] = useState('');
  const act = useAct(IMPORT, done);
  return (
    <FormButton
      label="Take an image in"
      icon={<HardDriveDownload size={14} />}
      title="Take an image in"
      act={act}
      input={{ name: name.trim(), source: source.trim(), checksum: checksum.trim() || undefined }}
      done={`${name.trim()} is taken in.`}
      submit="Take it in"
      ready={name.trim() !== '' && source.trim() !== ''}
      reset={() => {
        setName('');
        setSource('');
        setChecksum('');
      }}
      note="It is kept under the hash of its bytes, and copied to a host when a VM there is made of it."
    >
      <NameField act={act} value={name} change={setName} />
      <TextField
        act={act}
        field="source"
        label="File or URL"
        description="An absolute path on the node that serves this page, or an http or https address; qcow2 or raw"
        value={source}
        change={setSource}
        required
      />
      <TextField
        act={act}
        field="checksum"
        label="Checksum"
        description="sha256:… or blake3:…; other bytes are refused"
        value={checksum}
        change={setChecksum}
      />
    </FormButton>
  );
}
