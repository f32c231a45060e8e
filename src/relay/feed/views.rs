//! Events as subscriptions with other wishes see them: made once for all who wish the same.
//!
//! A view begins with its first reader and makes its events as they are admitted; whatever it does not hold is made again for
//! who asks, and is no patch then. Bounded: in number, and each in entries and bytes; beyond that sharing ends, and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::protocol::delta::{UNCHANGED, patch};
use crate::protocol::entry;
use crate::protocol::frame::{Entry, EntryKind};
use crate::protocol::request::options::Options;
use crate::protocol::selection::Selection;

/// Views of one channel.
const VIEWS_MAX: usize = 16;
/// Events that a view holds, …
const MADE_MAX: usize = 256;
/// … and the bytes of their text.
const MADE_BYTES: usize = 1 << 20;

/// How a subscription sees events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Only these members of payloads.
    pub fields: Option<Arc<Selection>>,
    /// Only what changed.
    pub delta: bool,
}

impl Sight {
    /// How these options have events be seen, if not as they are.
    pub fn of(options: &Options) -> Option<Sight> {
        options.is_seen_otherwise().then(|| Sight { fields: options.fields.clone(), delta: options.delta })
    }

    /// An entry with the members that are wanted of its payload. What is no event stays as it is; upstream's statement of the
    /// whole channel counts even where it has none of them.
    fn whole(&self, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let Some(fields) = &self.fields else { return Some(Arc::clone(entry)) };
        let data = match entry.kind {
            EntryKind::Event => fields.of(entry.data())?,
            EntryKind::Snapshot => fields.of(entry.data()).unwrap_or_else(|| UNCHANGED.to_vec()),
            _ => return Some(Arc::clone(entry)),
        };
        Some(Arc::new(entry::with_data(entry, &data)))
    }
}

/// The views of one channel.
#[derive(Debug, Default)]
pub struct Views(Vec<View>);

#[derive(Debug)]
struct View {
    sight: Sight,
    readers: usize,
    made: VecDeque<Made>,
    bytes: usize,
}

#[derive(Debug)]
struct Made {
    offset: u64,
    /// Without what came before; `None`: nothing of it is wanted.
    whole: Option<Arc<Entry>>,
    change: Change,
    bytes: usize,
}

/// What an event changed.
#[derive(Debug)]
enum Change {
    /// Not said.
    Unknown,
    /// Nothing that is wanted, since the event at this offset.
    None(u64),
    /// This, since the event at this offset, …
    Patch(u64, Arc<Entry>),
    /// … or since one that equals it.
    PatchOfEqual(u64, Arc<Entry>),
}

impl Views {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A reader came.
    pub fn enter(&mut self, sight: Sight) {
        let room = self.0.len() < VIEWS_MAX;
        match self.0.iter_mut().find(|view| view.sight == sight) {
            Some(view) => view.readers += 1,
            None if room => self.0.push(View { sight, readers: 1, made: VecDeque::new(), bytes: 0 }),
            None => {}
        }
    }

    /// A reader went.
    pub fn leave(&mut self, sight: &Sight) {
        let Some(at) = self.0.iter().position(|view| view.sight == *sight) else { return };
        self.0[at].readers -= 1;
        if self.0[at].readers == 0 {
            self.0.swap_remove(at);
        }
    }

    /// An event was admitted; `before`: its key's last value until then.
    pub fn make(&mut self, event: &Arc<Entry>, before: Option<&Arc<Entry>>) {
        for view in &mut self.0 {
            let made = view.see(event, before);
            view.bytes += made.bytes;
            view.made.push_back(made);
            while view.made.len() > MADE_MAX || view.bytes > MADE_BYTES {
                let Some(gone) = view.made.pop_front() else { break };
                view.bytes -= gone.bytes;
            }
        }
    }

    /// An entry as it is seen; `None` if nothing is seen of it. `has` says whether the reader has the event at an offset, and,
    /// with `true`, none that equals it instead.
    pub fn see(&self, sight: &Sight, entry: &Arc<Entry>, has: impl Fn(u64, bool) -> bool) -> Option<Arc<Entry>> {
        let made = self.0.iter().find(|view| view.sight == *sight).and_then(|view| view.find(entry.offset));
        let Some(made) = made else { return sight.whole(entry) };
        match &made.change {
            Change::Patch(base, patch) if has(*base, false) => Some(Arc::clone(patch)),
            Change::PatchOfEqual(base, patch) if has(*base, true) => Some(Arc::clone(patch)),
            Change::None(base) if has(*base, false) => None,
            _ => made.whole.clone(),
        }
    }
}

impl View {
    fn find(&self, offset: u64) -> Option<&Made> {
        let at = self.made.binary_search_by_key(&offset, |made| made.offset).ok()?;
        self.made.get(at)
    }

    fn see(&self, event: &Arc<Entry>, before: Option<&Arc<Entry>>) -> Made {
        let whole = self.sight.whole(event);
        let change = match (&whole, before) {
            (Some(whole), Some(before)) if self.sight.delta && event.kind == EntryKind::Event => {
                self.change(before, whole).unwrap_or(Change::Unknown)
            }
            _ => Change::Unknown,
        };
        let own = whole.as_ref().filter(|whole| !Arc::ptr_eq(whole, event)).map_or(0, |whole| whole.text.len());
        let bytes = own
            + match &change {
                Change::Patch(_, patch) | Change::PatchOfEqual(_, patch) => patch.text.len(),
                Change::Unknown | Change::None(_) => 0,
            };
        Made { offset: event.offset, whole, change, bytes }
    }

    fn change(&self, before: &Arc<Entry>, now: &Arc<Entry>) -> Option<Change> {
        // One that changed nothing was not sent: what it equals was.
        let base = match (&self.sight.fields, self.find(before.offset)) {
            (None, _) => before.offset,
            (Some(_), Some(Made { change: Change::None(base), .. })) => *base,
            (Some(_), Some(Made { whole: Some(_), .. })) => before.offset,
            (Some(_), _) => return None,
        };
        let patch = patch(self.sight.whole(before)?.data(), now.data())?;
        if patch == UNCHANGED && self.sight.fields.is_some() {
            return Some(Change::None(base));
        }
        let patch = Arc::new(entry::with_patch(now, base, &patch));
        Some(if base == before.offset { Change::Patch(base, patch) } else { Change::PatchOfEqual(base, patch) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::time::Mono;

    fn event(offset: u64, data: &str) -> Arc<Entry> {
        let text = format!("{{\"data\":{data}}}");
        let data_at = 8..u32::try_from(text.len()).unwrap() - 1;
        let (kind, received) = (EntryKind::Event, Mono(0));
        let text = text.into_bytes().into();
        Arc::new(Entry { offset, prev: None, kind, received, key: None, text, type_at: 0..0, data_at })
    }

    fn selection(pointer: &str) -> Sight {
        Sight { fields: Some(Arc::new(Selection::new(&[pointer.to_owned()]).unwrap())), delta: false }
    }

    fn all(_: u64, _: bool) -> bool {
        true
    }

    #[test]
    fn what_is_seen_is_made_once_for_all_who_wish_the_same() {
        let mut views = Views::default();
        let early = event(1, r#"{"p":1,"q":2}"#);
        views.enter(selection("/p"));
        views.enter(selection("/p"));
        assert_eq!(views.0.len(), 1);
        let entry = event(2, r#"{"p":1.10,"q":2}"#);
        views.make(&entry, None);
        let seen = views.see(&selection("/p"), &entry, all).unwrap();
        assert_eq!(&seen.text[..], br#"{"data":{"p":1.10}}"#);
        assert!(Arc::ptr_eq(&seen, &views.see(&selection("/p"), &entry, all).unwrap()));
        assert_eq!(views.see(&selection("/p"), &early, all).unwrap().data(), br#"{"p":1}"#, "from before the view");
        assert!(views.see(&selection("/r"), &entry, all).is_none());
        views.leave(&selection("/p"));
        assert!(!views.is_empty());
        views.leave(&selection("/p"));
        assert!(views.is_empty());
    }

    #[test]
    fn views_are_bounded() {
        let mut views = Views::default();
        for n in 0..VIEWS_MAX + 5 {
            views.enter(selection(&format!("/{n}")));
        }
        views.enter(selection("/p"));
        assert_eq!(views.0.len(), VIEWS_MAX);
        let large = format!("{{\"1\":\"{}\"}}", "x".repeat(MADE_BYTES / 4));
        (1..2 * MADE_MAX as u64).for_each(|n| views.make(&event(n, if n % 9 == 0 { &large } else { "{}" }), None));
        assert!(views.0.iter().all(|view| view.made.len() <= MADE_MAX && view.bytes <= MADE_BYTES));
        assert!(views.see(&selection("/p"), &event(1, r#"{"p":1}"#), all).is_some());
    }
}
