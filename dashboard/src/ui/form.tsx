// A button that opens a form: fields, what was wrong with them, and one way to send it.
import { Button, Group, Modal, Stack, Text, TextInput, type TextInputProps } from '@mantine/core';
import { type ReactNode, useState } from 'react';
import type { Act } from './act';
import { ProblemNote } from './shown';

/** Whether the answer was that this field is at fault. */
export function wrong(act: { problem: Act<object>['problem'] }, field: string): boolean {
  return act.problem?.field === field;
}

/** A line of text, which is marked when the answer was that `field` is at fault. */
export function TextField({
  act,
  field,
  change,
  ...rest
}: Omit<TextInputProps, 'onChange' | 'error'> & {
  act: { problem: Act<object>['problem'] };
  /** As the API names it. */
  field: string;
  value: string;
  change: (value: string) => void;
}) {
  return <TextInput {...rest} onChange={(event) => change(event.currentTarget.value)} error={wrong(act, field)} />;
}

/** What something new is called: the first field of its form. */
export function NameField({
  label = 'Name',
  among = 'in the cluster',
  ...rest
}: {
  act: { problem: Act<object>['problem'] };
  label?: string;
  /** Where no other may have it. */
  among?: string;
  value: string;
  change: (value: string) => void;
}) {
  return <TextField {...rest} field="name" label={label} description={`Unique ${among}`} data-autofocus required />;
}

export function FormButton<Input extends object>({
  label,
  icon,
  small = false,
  title,
  act,
  input,
  done,
  submit,
  ready = true,
  reset,
  note,
  children,
}: {
  /** Of the button that opens it. */
  label: string;
  icon?: ReactNode;
  /** Within text or a table. */
  small?: boolean;
  title: string;
  act: Act<Input>;
  input: Omit<Input, 'operationId'>;
  /** What is told when it was done. */
  done: string;
  /** Of the button that sends it. */
  submit: string;
  /** All that must be filled in is. */
  ready?: boolean;
  /** Each time it is opened: the fields begin anew. */
  reset?: () => void;
  /** What will come of it. */
  note?: ReactNode;
  children?: ReactNode;
}) {
  const [open, setOpen] = useState(false);
  const close = () => {
    setOpen(false);
    act.clear();
  };
  const show = () => {
    reset?.();
    setOpen(true);
  };
  const send = async () => {
    if (await act.run(input, done)) close();
  };
  return (
    <>
      <Button size={small ? 'compact-xs' : 'xs'} variant="default" leftSection={icon} onClick={show}>
        {label}
      </Button>
      <Modal opened={open} onClose={close} title={title}>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            if (ready) void send();
          }}
        >
          <Stack>
            {children}
            {note && (
              <Text size="sm" c="dimmed" component="div">
                {note}
              </Text>
            )}
            {act.problem && <ProblemNote problem={act.problem} />}
            <Group justify="flex-end">
              <Button variant="default" onClick={close}>
                Not now
              </Button>
              <Button type="submit" loading={act.running} disabled={!ready}>
                {submit}
              </Button>
            </Group>
          </Stack>
        </form>
      </Modal>
    </>
  );
}
