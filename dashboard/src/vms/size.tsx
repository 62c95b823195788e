// A VM's CPUs, memory and disks, and changing them while it is there.
import { Checkbox, Group, NumberInput } from '@mantine/core';
import { HardDrive, Scaling, Trash2 } from 'lucide-react';
import { useState } from 'react';
import { graphql } from '../live/graphql';
import { ConfirmButton, useAct } from '../ui/act';
import { bytes } from '../ui/figures';
import { FormButton, NameField, wrong } from '../ui/form';
import { Panel } from '../ui/shown';
import type { VmData } from './vm';

const RESIZE = graphql(`mutation ResizeVm($input: ResizeVmInput!) { resizeVm(input: $input) { cursor } }`);
const ATTACH = graphql(`mutation AttachVmDisk($input: AttachVmDiskInput!) { attachVmDisk(input: $input) { cursor } }`);
const DETACH = graphql(`mutation DetachVmDisk($input: DetachVmDiskInput!) { detachVmDisk(input: $input) { cursor } }`);

/** The disk that its system is on; it stays. */
const ROOT = 'root';

const MIB = 1 << 20;
const GIB = 1 << 30;

/** As hypervisors take it: whole MiB. */
export function ofGib(gib: number | string): number | undefined {
  return typeof gib === 'number' && gib > 0 ? Math.round(gib * 1_024) * MIB : undefined;
}

export function Size({ vm, live, refresh }: { vm: VmData; live: { stale: boolean; at: number }; refresh: () => void }) {
  const pending = vm.pendingRestart;
  return (
    <Panel
      title="Size and disks"
      live={live}
      right={
        <>
          <Resize vm={vm} done={refresh} />
          <AttachDisk vm={vm} done={refresh} />
        </>
      }
    >
      {pending && (
        <p style={{ color: 'var(--warn)', margin: '0 0 0.5rem' }} role="status">
          {pending.reason}
        </p>
      )}
      <section className="scroll-x" tabIndex={0} aria-label="Size and disks of it">
        <table className="plain">
          <thead>
            <tr>
              <th>What</th>
              <th>Shall be</th>
              <th>Runs with</th>
              <th aria-label="Actions" />
            </tr>
          </thead>
          <tbody>
            <tr>
              <td>CPUs</td>
              <td className="num">{vm.cpus}</td>
              <td className="num">{pending ? pending.cpus : <span className="dim">the same</span>}</td>
              <td />
            </tr>
            <tr>
              <td>Memory</td>
              <td className="num">{bytes(vm.memoryBytes)}</td>
              <td className="num">{pending ? bytes(pending.memoryBytes) : <span className="dim">the same</span>}</td>
              <td />
            </tr>
            {!vm.disks.some(({ name }) => name === ROOT) && (
              <tr>
                <td>The disk of its system</td>
                <td className="dim">as large as {vm.image} makes it</td>
                <td className="dim">the same</td>
                <td />
              </tr>
            )}
            {vm.disks.map((disk) => (
              <tr key={disk.name}>
                <td>{disk.name === ROOT ? 'The disk of its system' : `Disk ${disk.name}`}</td>
                <td className="num">{bytes(disk.sizeBytes)}</td>
                <td>
                  {pending?.missing.includes(disk.name) ? (
                    <span style={{ color: 'var(--warn)' }}>not yet: from its next start on</span>
                  ) : (
                    <span className="dim">the same</span>
                  )}
                </td>
                <td>{disk.name !== ROOT && <DetachDisk vm={vm} disk={disk.name} done={refresh} />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </section>
    </Panel>
  );
}

function Resize({ vm, done }: { vm: VmData; done: () => void }) {
  const [cpus, setCpus] = useState<number | string>(vm.cpus);
  const [gib, setGib] = useState<number | string>(vm.memoryBytes / GIB);
  const [offline, setOffline] = useState(false);
  const act = useAct(RESIZE, done);
  const memoryBytes = ofGib(gib);
  const changed = typeof cpus === 'number' && memoryBytes !== undefined;
  const lives = vm.status === 'RUNNING' || vm.status === 'PAUSED';
  return (
    <FormButton
      label="Resize"
      icon={<Scaling size={14} />}
      title={`Resize ${vm.name}`}
      act={act}
      input={{
        vm: vm.id,
        cpus: typeof cpus === 'number' && cpus !== vm.cpus ? cpus : undefined,
        memoryBytes: memoryBytes !== vm.memoryBytes ? memoryBytes : undefined,
        offline: lives && offline,
      }}
      done={`${vm.name} has another size.`}
      submit="Resize"
      ready={changed && (cpus !== vm.cpus || memoryBytes !== vm.memoryBytes)}
      reset={() => {
        setCpus(vm.cpus);
        setGib(vm.memoryBytes / GIB);
        setOffline(false);
      }}
      note={
        lives
          ? 'Room for more is reserved on its host first; without any it stays as it is. A guest that runs is given memory up to what it was started with, or gives it back; whatever else is new comes with its next start.'
          : 'Room for more is reserved on its host first; without any it stays as it is. It has the new size when it is started.'
      }
    >
      <Group grow align="flex-start">
        <NumberInput
          label="CPUs"
          min={1}
          allowDecimal={false}
          value={cpus}
          onChange={setCpus}
          error={wrong(act, 'cpus')}
          data-autofocus
        />
        <NumberInput
          label="Memory"
          suffix=" GiB"
          min={0.125}
          step={1}
          decimalScale={3}
          value={gib}
          onChange={setGib}
          error={wrong(act, 'memoryBytes')}
        />
      </Group>
      {lives && (
        <Checkbox
          label="Leave what runs alone: all of it comes with its next start"
          checked={offline}
          onChange={(event) => setOffline(event.currentTarget.checked)}
        />
      )}
    </FormButton>
  );
}

function AttachDisk({ vm, done }: { vm: VmData; done: () => void }) {
  const [name, setName] = useState('');
  const [gib, setGib] = useState<number | string>(10);
  const act = useAct(ATTACH, done);
  const sizeBytes = ofGib(gib);
  return (
    <FormButton
      label="Attach a disk"
      icon={<HardDrive size={14} />}
      title={`Attach a disk to ${vm.name}`}
      act={act}
      input={{ vm: vm.id, name: name.trim(), sizeBytes: sizeBytes ?? 0 }}
      done={`${vm.name} has a disk ${name.trim()}.`}
      submit="Attach it"
      ready={name.trim() !== '' && sizeBytes !== undefined}
      reset={() => setName('')}
      note={`It is empty. ${vm.status === 'RUNNING' ? 'Its guest has it at once.' : 'Its guest has it when it is started.'}`}
    >
      <NameField act={act} label="Disk’s name" among="among those of this VM" value={name} change={setName} />
      <NumberInput
        label="Size"
        suffix=" GiB"
        min={0.125}
        decimalScale={3}
        value={gib}
        onChange={setGib}
        error={wrong(act, 'sizeBytes')}
      />
    </FormButton>
  );
}

function DetachDisk({ vm, disk, done }: { vm: { id: string; name: string }; disk: string; done: () => void }) {
  const [sure, setSure] = useState(false);
  const act = useAct(DETACH, done);
  return (
    <ConfirmButton
      act={act}
      input={{ vm: vm.id, name: disk, delete: sure }}
      done={`The disk ${disk} is gone.`}
      title={`Detach ${disk} from ${vm.name}?`}
      consequence="All that is on it is gone for good. A guest that does not let go of it keeps it, and then nothing is changed."
      confirm="Detach it"
      leftSection={<Trash2 size={14} />}
      more={
        <Checkbox
          label="Its data shall be deleted; without this it is refused"
          checked={sure}
          onChange={(event) => setSure(event.currentTarget.checked)}
        />
      }
    >
      Detach
    </ConfirmButton>
  );
}
