//! What can be seen at one moment of the model: the words, the buffers, the two programs.

/// A bit of the gate's word, as in the recorder.
pub const PAUSED: u8 = 8;
/// Buffers of the pool; index 0 is "none".
pub const BUFFERS: usize = 3;
/// Events that fit in a buffer.
pub const ROOM: u8 = 2;
/// Stores that the owner's processor can hold back.
pub const STORES: usize = 7;

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Event bytes reached a buffer that somebody else has.
    WrittenAfterTaken,
    /// Event bytes appeared during the snapshot, and the thread was not marked as late.
    WrittenInSnapshot,
    /// An event was begun inside a half-written one.
    Torn,
    /// A position was published before the bytes below it.
    PublishedBeforeWritten,
    /// A buffer was handed over by somebody who did not have it.
    HandedOverTwice,
    /// An event reached the reader, or the loss count, twice.
    AccountedTwice,
    /// All is over, and an event reached neither the reader nor the loss count.
    LostInSilence,
    /// An event of the second session went into a buffer of the first.
    WrongSession,
    /// Nobody can go on, and not all is over.
    Deadlock,
}

/// Defines an enum and the list of its values, so that a value packs into few bits.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $value:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$each])* $value),* }
        impl $name {
            const ALL: &[$name] = &[$($name::$value),*];
        }
    };
}

numbered! {
    /// Where a running event stands: what its next instruction does.
    Step {
        LoadOn,
        TestBusy,
        Register,
        SetBusy,
        LoadGate,
        Write,
        Publish,
        Leave,
        /// An event inside an event: looks at the gate, then goes to the side buffer.
        Nested,
        NestedWrite,
        /// Mutants only: the nested event waits for the end of the pause.
        NestedWait,
        /// Inside the section, the gate did not match or the buffer is full.
        Cold,
        Wait,
        Pop,
        Exchange,
        HandOver,
    }
}

numbered! {
    /// Who has a buffer.
    Holder { Pool, Owner, Queue, Quarantine }
}

numbered! {
    /// The signal handler that interrupts the controller's own thread.
    OwnHandler { Coming, Waiting, Over }
}

/// A store that only its own thread sees so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    Busy(bool),
    /// A nested event, whole, and the side buffer's head.
    Side,
    /// The bytes of an event.
    Data(u8),
    /// The position behind them.
    Position(u8),
}

impl Store {
    fn code(self) -> u8 {
        match self {
            Store::Busy(inside) => inside as u8,
            Store::Side => 2,
            Store::Data(buffer) => 3 + buffer,
            Store::Position(buffer) => 3 + BUFFERS as u8 + buffer,
        }
    }

    fn of_code(code: u8) -> Store {
        match code {
            0 | 1 => Store::Busy(code == 1),
            2 => Store::Side,
            3..=6 => Store::Data(code - 3),
            _ => Store::Position(code - 3 - BUFFERS as u8),
        }
    }
}

/// A generation and a buffer; buffer 0 = none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tagged {
    pub generation: u8,
    pub buffer: u8,
}

pub const EMPTY: Tagged = Tagged { generation: 0, buffer: 0 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub holder: Holder,
    /// Events below the published position, as others see it.
    pub position: u8,
    /// Others see bytes of an event above the position.
    pub fresh: bool,
    /// The owner has begun an event and not published it, in its own order.
    pub half: bool,
    pub second_session: bool,
}

/// One emit call of the owner, or of the handler that interrupts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub step: Step,
    /// The gate's word that it goes by; in `HandOver` the tag of what it hands over.
    pub gate: u8,
    pub second_session: bool,
    /// Popped and not yet in the slot; in `HandOver` what it hands over.
    pub buffer: u8,
}

const NO_FRAME: Frame = Frame { step: Step::LoadOn, gate: 0, second_session: false, buffer: 0 };

/// All of one moment. Small enough to pack into 128 bits, so that millions fit in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    // The words that both sides touch, as others than the owner see them.
    pub on: bool,
    pub gate: u8,
    pub busy: bool,
    pub slot: Tagged,
    /// Nested events in the side buffer.
    pub side: u8,
    pub buffers: [Buffer; BUFFERS],

    // The owner.
    pub stores: [Store; STORES],
    pub stores_len: u8,
    pub registered: bool,
    /// The busy word as the owner sees it.
    pub inside: bool,
    /// The record's private half: generation, buffer, events in it.
    pub joined: Tagged,
    pub used: u8,
    pub frames: [Frame; 2],
    pub depth: u8,
    pub events_left: u8,
    pub handlers_left: u8,

    // The controller.
    pub at: u8,
    pub late: bool,
    /// What it read from the slot and is about to take.
    pub seen: Tagged,
    pub snapshot: bool,
    /// First generation of the session.
    pub first: u8,
    pub second_session: bool,
    pub own_handler: OwnHandler,
    /// The buffer that a late thread held at the stop's deadline, and how much of it was copied.
    pub quarantine: u8,
    pub copied: u8,

    /// Events attempted and not yet delivered, counted as lost, or found to be off.
    pub open: u8,
    /// Not packed: the search ends at the first one.
    pub fault: Option<Fault>,
}

impl State {
    pub fn initial(registered: bool, events: u8, handlers: u8, own_handler: bool) -> State {
        let buffer = Buffer {
            holder: Holder::Pool,
            position: 0,
            fresh: false,
            half: false,
            second_session: false,
        };
        State {
            on: false,
            gate: 0,
            busy: false,
            slot: EMPTY,
            side: 0,
            buffers: [buffer; BUFFERS],
            stores: [Store::Busy(false); STORES],
            stores_len: 0,
            registered,
            inside: false,
            joined: EMPTY,
            used: 0,
            frames: [NO_FRAME; 2],
            depth: 0,
            events_left: events,
            handlers_left: handlers,
            at: 0,
            late: false,
            seen: EMPTY,
            snapshot: false,
            first: 0,
            second_session: false,
            own_handler: if own_handler { OwnHandler::Coming } else { OwnHandler::Over },
            quarantine: 0,
            copied: 0,
            open: 0,
            fault: None,
        }
    }

    pub fn buffer(&mut self, index: u8) -> &mut Buffer {
        &mut self.buffers[index as usize - 1]
    }

    pub fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// `events` of the open ones have found their place.
    pub fn account(&mut self, events: u8) {
        match self.open.checked_sub(events) {
            Some(open) => self.open = open,
            None => self.fail(Fault::AccountedTwice),
        }
    }

    /// Puts a store at the end of the owner's store buffer.
    pub fn store(&mut self, store: Store) {
        self.stores[self.stores_len as usize] = store;
        self.stores_len += 1;
        if let Store::Busy(inside) = store {
            self.inside = inside;
        }
    }

    /// Makes the oldest store visible, and judges it by who sees it.
    pub fn commit(&mut self) {
        let store = self.stores[0];
        self.stores.copy_within(1.., 0);
        self.stores_len -= 1;
        self.stores[STORES - 1] = Store::Busy(false);
        match store {
            Store::Busy(inside) => self.busy = inside,
            Store::Side => {
                self.judge_snapshot();
                self.side += 1;
            }
            Store::Data(index) => {
                self.judge_write(index);
                self.buffer(index).fresh = true;
            }
            Store::Position(index) => {
                self.judge_write(index);
                let buffer = self.buffer(index);
                buffer.position += 1;
                if !std::mem::take(&mut buffer.fresh) {
                    self.fail(Fault::PublishedBeforeWritten);
                }
            }
        }
    }

    /// A locked instruction, a system call, or a barrier that interrupts the owner.
    pub fn commit_all(&mut self) {
        while self.stores_len > 0 {
            self.commit();
        }
    }

    fn judge_write(&mut self, index: u8) {
        self.judge_snapshot();
        match self.buffer(index).holder {
            Holder::Owner | Holder::Quarantine => {}
            Holder::Pool | Holder::Queue => self.fail(Fault::WrittenAfterTaken),
        }
    }

    fn judge_snapshot(&mut self) {
        if self.snapshot && !self.late {
            self.fail(Fault::WrittenInSnapshot);
        }
    }

    /// Gives a buffer of the owner to the queue, or, where its session is over, to the pool.
    pub fn hand_over(&mut self, what: Tagged) {
        let first = self.first;
        let buffer = self.buffer(what.buffer);
        if buffer.holder != Holder::Owner {
            return self.fail(Fault::HandedOverTwice);
        }
        if what.generation < first {
            let events = buffer.position;
            buffer.holder = Holder::Pool;
            self.account(events);
        } else {
            buffer.holder = Holder::Queue;
        }
    }

    /// The reader takes a buffer from the queue, if there is one, and gives it back to the pool.
    pub fn drain(&mut self) -> bool {
        let Some(buffer) = self.buffers.iter_mut().find(|b| b.holder == Holder::Queue) else {
            return false;
        };
        buffer.holder = Holder::Pool;
        let events = buffer.position;
        self.account(events);
        true
    }

    pub fn pack(mut self) -> u128 {
        let mut pack = Pack { word: 0, at: 0 };
        self.visit(&mut pack);
        pack.word
    }

    pub fn unpack(word: u128) -> State {
        let mut state = State::initial(false, 0, 0, false);
        state.visit(&mut Unpack { word });
        state
    }

    /// The one list of what a state consists of, and of how many bits each part needs.
    fn visit(&mut self, bits: &mut impl Bits) {
        bits.flag(&mut self.on);
        bits.number(&mut self.gate, 4);
        bits.flag(&mut self.busy);
        bits.tagged(&mut self.slot);
        bits.number(&mut self.side, 1);
        for buffer in &mut self.buffers {
            bits.value(&mut buffer.holder, Holder::ALL, 2);
            bits.number(&mut buffer.position, 2);
            bits.flag(&mut buffer.fresh);
            bits.flag(&mut buffer.half);
            bits.flag(&mut buffer.second_session);
        }
        bits.number(&mut self.stores_len, 3);
        for store in &mut self.stores {
            let mut code = store.code();
            bits.number(&mut code, 4);
            *store = Store::of_code(code);
        }
        bits.flag(&mut self.registered);
        bits.flag(&mut self.inside);
        bits.tagged(&mut self.joined);
        bits.number(&mut self.used, 2);
        for frame in &mut self.frames {
            bits.value(&mut frame.step, Step::ALL, 4);
            bits.number(&mut frame.gate, 4);
            bits.flag(&mut frame.second_session);
            bits.number(&mut frame.buffer, 2);
        }
        bits.number(&mut self.depth, 2);
        bits.number(&mut self.events_left, 2);
        bits.number(&mut self.handlers_left, 1);
        bits.number(&mut self.at, 6);
        bits.flag(&mut self.late);
        bits.tagged(&mut self.seen);
        bits.flag(&mut self.snapshot);
        bits.number(&mut self.first, 3);
        bits.flag(&mut self.second_session);
        bits.value(&mut self.own_handler, OwnHandler::ALL, 2);
        bits.number(&mut self.quarantine, 2);
        bits.number(&mut self.copied, 2);
        bits.number(&mut self.open, 3);
    }

    pub fn begin(&mut self) {
        self.frames[self.depth as usize] = NO_FRAME;
        self.depth += 1;
        self.open += 1;
    }

    pub fn end(&mut self) {
        self.depth -= 1;
        self.frames[self.depth as usize] = NO_FRAME;
    }

    pub fn frame(&mut self) -> &mut Frame {
        &mut self.frames[self.depth as usize - 1]
    }
}

/// Reads or writes one part after the other.
trait Bits {
    fn number(&mut self, value: &mut u8, width: u32);

    fn flag(&mut self, flag: &mut bool) {
        let mut number = *flag as u8;
        self.number(&mut number, 1);
        *flag = number == 1;
    }

    fn tagged(&mut self, tagged: &mut Tagged) {
        self.number(&mut tagged.generation, 3);
        self.number(&mut tagged.buffer, 2);
    }

    fn value<T: Copy + PartialEq>(&mut self, value: &mut T, all: &[T], width: u32) {
        let mut number = all.iter().position(|v| v == value).expect("listed") as u8;
        self.number(&mut number, width);
        *value = all[number as usize];
    }
}

struct Pack {
    word: u128,
    at: u32,
}

impl Bits for Pack {
    fn number(&mut self, value: &mut u8, width: u32) {
        assert!(*value >> width == 0, "{value} does not fit in {width} bits");
        self.word |= (*value as u128) << self.at;
        self.at += width;
        assert!(self.at <= u128::BITS, "the state has grown beyond its word");
    }
}

struct Unpack {
    word: u128,
}

impl Bits for Unpack {
    fn number(&mut self, value: &mut u8, width: u32) {
        *value = self.word as u8 & ((1 << width) - 1);
        self.word >>= width;
    }
}
