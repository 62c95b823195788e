// One box for everything: a key goes straight to its entity; words find tasks by title, agents and swarms by name.
import { Combobox, Group, Loader, Modal, ScrollArea, Text, TextInput, useCombobox } from '@mantine/core';
import { useDebouncedValue } from '@mantine/hooks';
import { useNavigate } from '@tanstack/react-router';
import { Search as SearchIcon } from 'lucide-react';
import { useEffect, useLayoutEffect, useState } from 'react';
import { graphql } from '../live/graphql';
import { never, useLive } from '../live/use_live';
import { keyPath, shortKey } from '../ui/key';
import { State } from '../ui/state';
import { SCREENS } from './shell';

const FIND = graphql(`
  query Find($text: String!) {
    tasks(first: 8, filter: { titleContains: $text }, orderBy: CREATED_DESC) { nodes { id title status } }
    agents(first: 8, filter: { nameContains: $text }) { nodes { id name status } }
    swarms(first: 8, filter: { nameContains: $text }) { nodes { id name } }
    vms(first: 8, filter: { nameContains: $text }) { nodes { id name status } }
    hosts(first: 100) { nodes { id name status } }
    networks(first: 100) { nodes { id name } }
  }
`);

const KEY = /^(task|agent|swarm|host|vm|network)_[0-9a-f]{32}$/;

type Found = { value: string; label: string; note: string; status?: string; group: string };

export default function Search({ close }: { close: () => void }) {
  const [text, setText] = useState('');
  const [settled] = useDebouncedValue(text.trim(), 180);
  const navigate = useNavigate();
  const combobox = useCombobox({ opened: true });
  const isKey = KEY.test(settled);
  const live = useLive(FIND, { text: settled }, { skip: settled === '' || isKey, touches: never });
  const found: Found[] = [];
  const path = isKey ? keyPath(settled) : undefined;
  if (path) found.push({ value: path, label: `Go to ${shortKey(settled)}`, note: settled, group: 'Key' });
  for (const screen of SCREENS) {
    if (screen.label.toLowerCase().includes(settled.toLowerCase()))
      found.push({ value: screen.to, label: screen.label, note: `g ${screen.key}`, group: 'Screens' });
  }
  if (live.data && settled !== '' && !isKey) {
    for (const { id, name } of live.data.swarms.nodes)
      found.push({ value: `/swarms/${id}`, label: name, note: shortKey(id), group: 'Swarms' });
    for (const { id, name, status } of live.data.agents.nodes)
      found.push({ value: `/agents/${id}`, label: name, note: shortKey(id), status, group: 'Agents' });
    const words = settled.toLowerCase();
    for (const { id, name, status } of live.data.hosts.nodes.filter(({ name }) => name.toLowerCase().includes(words)))
      found.push({ value: `/hosts/${id}`, label: name, note: shortKey(id), status, group: 'Hosts' });
    for (const { id, name, status } of live.data.vms.nodes)
      found.push({ value: `/vms/${id}`, label: name, note: shortKey(id), status, group: 'VMs' });
    for (const { id, name } of live.data.networks.nodes.filter(({ name }) => name.toLowerCase().includes(words)))
      found.push({ value: `/networks/${id}`, label: name, note: shortKey(id), group: 'Networks' });
    for (const { id, title, status } of live.data.tasks.nodes)
      found.push({ value: `/tasks/${id}`, label: title, note: shortKey(id), status, group: 'Tasks' });
  }
  const groups = [...new Set(found.map((each) => each.group))];
  const values = found.map(({ value }) => value).join();
  // Before anybody can press Enter: which option is meant is kept on its element, and those are others now.
  // biome-ignore lint/correctness/useExhaustiveDependencies: what is found is all that matters
  useLayoutEffect(() => {
    if (values !== '') combobox.selectFirstOption();
  }, [values]);
  // Who presses Enter before the words were looked for means what they find, and not what fewer words found.
  const looking = text.trim() !== settled || (live.loading && settled !== '' && !isKey);
  const [hurried, setHurried] = useState(false);
  const first = found[0]?.value;
  useEffect(() => {
    if (!hurried || looking) return;
    setHurried(false);
    if (first === undefined) return;
    close();
    void navigate({ to: first });
  }, [hurried, looking, first, close, navigate]);
  return (
    <Modal
      opened
      onClose={close}
      withCloseButton={false}
      padding={0}
      size="lg"
      yOffset="10vh"
      centered={false}
      attributes={{ content: { 'aria-label': 'Search' } }}
    >
      <Combobox
        store={combobox}
        withinPortal={false}
        onOptionSubmit={(value) => {
          close();
          void navigate({ to: value });
        }}
      >
        <Combobox.EventsTarget>
          <TextInput
            size="md"
            aria-label="Search"
            placeholder="A title, a name, or a key such as task_0192…"
            value={text}
            onChange={(event) => {
              setText(event.currentTarget.value);
              setHurried(false);
            }}
            onKeyDown={(event) => {
              if (event.key === 'Escape') close();
              if (event.key !== 'Enter' || !looking) return;
              combobox.resetSelectedOption();
              setHurried(true);
            }}
            leftSection={<SearchIcon size={17} aria-hidden />}
            rightSection={live.loading && settled !== '' && !isKey ? <Loader size={16} /> : null}
            data-autofocus
            variant="unstyled"
            px="xs"
            py={4}
          />
        </Combobox.EventsTarget>
        <ScrollArea.Autosize
          mah="55vh"
          type="auto"
          viewportProps={{ tabIndex: 0 }}
          style={{ borderTop: '1px solid var(--line)' }}
        >
          <Combobox.Options p={6} aria-label="Found">
            {groups.map((group) => (
              <Combobox.Group label={group} key={group}>
                {found
                  .filter((each) => each.group === group)
                  .map((each) => (
                    <Combobox.Option value={each.value} key={each.value}>
                      <Group justify="space-between" wrap="nowrap" gap="sm">
                        <span className="clip">{each.label}</span>
                        <Group gap="xs" wrap="nowrap">
                          {each.status && <State status={each.status} />}
                          <span className="dim mono" style={{ whiteSpace: 'nowrap' }}>
                            {each.group === 'Key' ? '' : each.note}
                          </span>
                        </Group>
                      </Group>
                    </Combobox.Option>
                  ))}
              </Combobox.Group>
            ))}
            {found.length === 0 && !live.loading && (
              <Text p="md" size="sm" c="dimmed">
                {live.problem ? live.problem.message : 'Nothing has this in its title or name.'}
              </Text>
            )}
          </Combobox.Options>
        </ScrollArea.Autosize>
      </Combobox>
    </Modal>
  );
}
