// What is made of a VM as it is at one moment: another VM, or an image that others are made of.
import { Checkbox } from '@mantine/core';
import { CopyPlus, Disc3 } from 'lucide-react';
import { useState } from 'react';
import { HostSelect } from '../backups/restore';
import { graphql } from '../live/graphql';
import { useAct } from '../ui/act';
import { FormButton, NameField, wrong } from '../ui/form';

const CLONE = graphql(`mutation CloneVm($input: CloneVmInput!) { cloneVm(input: $input) { cursor } }`);
const IMAGE = graphql(
  `mutation CreateImageFromVm($input: CreateImageFromVmInput!) { createImageFromVm(input: $input) { cursor } }`,
);

export function CloneVm({
  vm,
  hosts,
  refresh,
}: {
  vm: { id: string; name: string };
  hosts: ReadonlyMap<string, string>;
  refresh: () => void;
}) {
  const [name, setName] = useState('');
  const [host, setHost] = useState('');
  const [start, setStart] = useState(true);
  const act = useAct(CLONE, refresh);
  return (
    <FormButton
      label="Clone"
      icon={<CopyPlus size={14} />}
      title={`Clone ${vm.name}`}
      act={act}
      input={{ vm: vm.id, name: name.trim(), host: host || undefined, start }}
      done={`${name.trim()} is being made; the operations of ${vm.name} say how it goes.`}
      submit="Clone"
      ready={name.trim() !== ''}
      reset={() => setName(`${vm.name}-2`)}
      note={`Its disks begin as those of ${vm.name} are at one moment, which runs on; what its guest has not written by then is not on them. It has an id, addresses and a first boot of its own, and needs nothing of ${vm.name} later.`}
    >
      <NameField act={act} label="Name of the clone" value={name} change={setName} />
      <HostSelect hosts={hosts} value={host} change={setHost} at={wrong(act, 'host')} />
      <Checkbox label="Start it" checked={start} onChange={(event) => setStart(event.currentTarget.checked)} />
    </FormButton>
  );
}

export function MakeImage({ vm, refresh }: { vm: { id: string; name: string }; refresh: () => void }) {
  const [name, setName] = useState('');
  const act = useAct(IMAGE, refresh);
  return (
    <FormButton
      label="Make an image"
      icon={<Disc3 size={14} />}
      title={`Make an image of ${vm.name}`}
      act={act}
      input={{ vm: vm.id, name: name.trim() }}
      done={`The image ${name.trim()} is being made; the operations of ${vm.name} say how it goes.`}
      submit="Make it"
      ready={name.trim() !== ''}
      reset={() => setName('')}
      note="VMs can then be made of it as of any image. The disk of its system is in it as it is at one moment, with all that is private to its guest, such as its keys and passwords."
    >
      <NameField act={act} label="Name of the image" value={name} change={setName} />
    </FormButton>
  );
}
