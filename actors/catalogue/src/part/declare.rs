//! Makes of the list of parts what the roster and the directory work with: their state, their changes and their events.

/// Declares the parts. Each line is the name of the field, the name of the variant, and the type of the part.
macro_rules! parts {
    ($($(#[$attribute:meta])* $field:ident: $Name:ident($Part:ty)),+ $(,)?) => {
        /// All that is declared, by part.
        #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct Parts {
            $($(#[$attribute])* pub $field: $Part,)+
        }

        /// A change of one part.
        #[derive(Clone, Debug)]
        pub enum PartChange {
            $($Name(<$Part as Part>::Change),)+
        }

        /// An event of one part.
        #[derive(Clone, Debug, PartialEq)]
        pub enum PartEvent {
            $($Name(<$Part as Part>::Event),)+
        }

        impl Parts {
            /// The parts that this version knows, by their nouns.
            pub const NOUNS: &'static [&'static str] = &[$(<$Part as Part>::NOUN),+];

            /// Makes an event part of the state.
            pub fn apply(&mut self, event: &PartEvent, when: When) {
                match event {
                    $(PartEvent::$Name(event) => self.$field.apply(event, when),)+
                }
            }
        }

        impl PartChange {
            /// Returns the noun of the part that it changes.
            pub const fn noun(&self) -> &'static str {
                match self {
                    $(Self::$Name(_) => <$Part as Part>::NOUN,)+
                }
            }

            /// Returns the key of the thing that it is about.
            pub fn key(&self) -> Key {
                match self {
                    $(Self::$Name(change) => <$Part as Part>::key(change),)+
                }
            }

            /// Decides what it makes happen. Errors: it is refused, and nothing happens.
            pub fn decide(&self, known: &Known, operation: Option<&Operation>) -> Result<Vec<PartEvent>, Refused> {
                match self {
                    $(Self::$Name(change) => {
                        let events = <$Part as Part>::decide(known, change, operation)?;
                        Ok(events.into_iter().map(PartEvent::$Name).collect())
                    })+
                }
            }

            /// Returns the change as it travels, by the names of its fields.
            fn body(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
                match self {
                    $(Self::$Name(change) => rmp_serde::to_vec_named(change),)+
                }
            }

            /// Reads a change of the part with this noun; `None` if this version has no such part.
            fn read(noun: &str, body: &[u8]) -> Option<Result<Self, rmp_serde::decode::Error>> {
                $(if noun == <$Part as Part>::NOUN {
                    return Some(rmp_serde::from_slice(body).map(Self::$Name));
                })+
                None
            }
        }

        impl PartEvent {
            /// Returns the event's kind, as the ledger keeps it.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$Name(event) => <$Part as Part>::kind(event),)+
                }
            }

            /// Encodes the event for the ledger.
            pub fn encode(&self) -> Result<Bytes, rmp_serde::encode::Error> {
                match self {
                    $(Self::$Name(event) => <$Part as Part>::encode(event),)+
                }
            }

            /// Reads an event of this kind; `None` if no part has such events.
            pub fn decode(kind: &str, body: &[u8]) -> Option<Result<Self, DecodeError>> {
                $(if <$Part as Part>::KINDS.contains(&kind) {
                    return Some(decode::<$Part>(kind, body).map(Self::$Name));
                })+
                None
            }

            /// Returns the client's operation that led to the event, and the key that its answer names.
            pub fn operation(&self) -> Option<(&Operation, Key)> {
                match self {
                    $(Self::$Name(event) => <$Part as Part>::operation(event),)+
                }
            }

            /// Returns what happened, as clients see it.
            pub fn public(&self) -> PublicEvent {
                match self {
                    $(Self::$Name(event) => <$Part as Part>::public(event),)+
                }
            }
        }

        #[cfg(test)]
        mod tests {
            use std::collections::BTreeSet;

            use super::*;

            #[test]
            fn no_two_parts_have_a_noun_or_a_kind_of_event_in_common() {
                let (mut nouns, mut kinds) = (BTreeSet::new(), BTreeSet::new());
                $(
                    assert!(nouns.insert(<$Part as Part>::NOUN), "two parts are called {}", <$Part as Part>::NOUN);
                    for kind in <$Part as Part>::KINDS {
                        assert!(kinds.insert(kind), "two parts have events of kind {kind}");
                    }
                )+
            }
        }
    };
}

pub(super) use parts;
