// All tasks: as a board by status, or as a table with filters. The address holds what is shown, so it can be sent to others.
import { ActionIcon, Button, Group, Menu, MultiSelect, SegmentedControl, TextInput, Tooltip } from '@mantine/core';
import { useDebouncedCallback } from '@mantine/hooks';
import { getRouteApi } from '@tanstack/react-router';
import { Bookmark, Trash2, X } from 'lucide-react';
import { useEffect, useState } from 'react';
import type { TaskSearch } from '../app/router';
import { PageHead } from '../ui/shown';
import { word } from '../ui/state';
import { Board } from './board';
import { PRIORITIES, STATUSES } from './filter';
import { TaskTable } from './table';
import { BUILT_IN, forgetView, savedViews, saveView } from './views';

const route = getRouteApi('/tasks');

export function Tasks() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const change = (next: Partial<TaskSearch>) =>
    void navigate({ search: (before) => ({ ...before, ...next }), replace: true });
  const table = search.view === 'table';
  return (
    <div className="page page-full">
      <PageHead title="Tasks">
        <Views search={search} pick={(picked) => void navigate({ search: picked })} />
        <SegmentedControl
          size="xs"
          aria-label="How tasks are shown"
          value={table ? 'table' : 'board'}
          onChange={(view) => change({ view: view === 'table' ? 'table' : undefined })}
          data={[
            { value: 'board', label: 'Board' },
            { value: 'table', label: 'Table' },
          ]}
        />
      </PageHead>
      <Filters search={search} change={change} />
      {table ? <TaskTable search={search} change={change} /> : <Board search={search} />}
    </div>
  );
}

const options = (all: readonly string[]) => all.map((value) => ({ value, label: word(value) }));

function Filters({ search, change }: { search: TaskSearch; change: (next: Partial<TaskSearch>) => void }) {
  const table = search.view === 'table';
  const filtered = ['status', 'priority', 'swarm', 'agent', 'title', 'kind', 'label'].some(
    (field) => search[field as keyof TaskSearch],
  );
  return (
    <Group gap="xs" align="flex-end">
      <Words label="Title contains" value={search.title} change={(title) => change({ title })} width={170} />
      {table && (
        <MultiSelect
          size="xs"
          label="Status"
          placeholder={search.status ? undefined : 'any'}
          data={options(STATUSES)}
          value={search.status ?? []}
          onChange={(status) => change({ status: status.length > 0 ? status : undefined })}
          clearable
          w={{ base: '100%', xs: 220 }}
        />
      )}
      <MultiSelect
        size="xs"
        label="Priority"
        placeholder={search.priority ? undefined : 'any'}
        data={options(PRIORITIES)}
        value={search.priority ?? []}
        onChange={(priority) => change({ priority: priority.length > 0 ? priority : undefined })}
        clearable
        w={150}
      />
      <Words label="Swarm" value={search.swarm} change={(swarm) => change({ swarm })} width={110} />
      <Words
        label="Labels"
        value={search.label}
        placeholder="key=value"
        change={(label) => change({ label })}
        width={130}
      />
      {search.agent && (
        <Button size="xs" variant="default" rightSection={<X size={13} />} onClick={() => change({ agent: undefined })}>
          of one agent
        </Button>
      )}
      {filtered && (
        <Button
          size="xs"
          variant="subtle"
          onClick={() =>
            change({
              status: undefined,
              priority: undefined,
              swarm: undefined,
              agent: undefined,
              title: undefined,
              kind: undefined,
              label: undefined,
            })
          }
        >
          Clear filters
        </Button>
      )}
    </Group>
  );
}

/** A text filter that waits until typing pauses. */
export function Words({
  label,
  value,
  change,
  width,
  placeholder = 'any',
}: {
  label: string;
  value: string | undefined;
  change: (value: string | undefined) => void;
  width: number;
  placeholder?: string;
}) {
  const [text, setText] = useState(value ?? '');
  const later = useDebouncedCallback((typed: string) => change(typed.trim() || undefined), 250);
  useEffect(() => setText((typed) => (typed.trim() === (value ?? '') ? typed : (value ?? ''))), [value]);
  return (
    <TextInput
      size="xs"
      label={label}
      placeholder={placeholder}
      value={text}
      w={width}
      onChange={(event) => {
        setText(event.currentTarget.value);
        later(event.currentTarget.value);
      }}
    />
  );
}

function Views({ search, pick }: { search: TaskSearch; pick: (search: TaskSearch) => void }) {
  const [saved, setSaved] = useState(savedViews);
  const [name, setName] = useState('');
  return (
    <Menu position="bottom-end" width={250} closeOnItemClick>
      <Menu.Target>
        <Button size="xs" variant="default" leftSection={<Bookmark size={14} />}>
          Views
        </Button>
      </Menu.Target>
      <Menu.Dropdown>
        {BUILT_IN.map((view) => (
          <Menu.Item key={view.name} onClick={() => pick(view.search)}>
            {view.name}
          </Menu.Item>
        ))}
        {saved.length > 0 && <Menu.Label>Saved in this browser</Menu.Label>}
        {saved.map((view) => (
          <Group key={view.name} gap={0} wrap="nowrap">
            <Menu.Item onClick={() => pick(view.search)}>{view.name}</Menu.Item>
            <Tooltip label="Forget it">
              <ActionIcon
                variant="subtle"
                color="gray"
                aria-label={`Forget the view ${view.name}`}
                onClick={() => setSaved(forgetView(view.name))}
              >
                <Trash2 size={14} />
              </ActionIcon>
            </Tooltip>
          </Group>
        ))}
        <Menu.Divider />
        <form
          style={{ display: 'flex', gap: 6, padding: 6 }}
          onSubmit={(event) => {
            event.preventDefault();
            if (name.trim() === '') return;
            setSaved(saveView({ name: name.trim().slice(0, 60), search }));
            setName('');
          }}
        >
          <TextInput
            size="xs"
            aria-label="Name of the view"
            placeholder="Save what is shown as…"
            value={name}
            onChange={(event) => setName(event.currentTarget.value)}
            onKeyDown={(event) => event.stopPropagation()}
            style={{ flex: 1 }}
          />
          <Button size="xs" type="submit" disabled={name.trim() === ''}>
            Save
          </Button>
        </form>
      </Menu.Dropdown>
    </Menu>
  );
}
