//! An allocator that counts how much memory one input takes at most.
//!
//! It counts per thread, because the readers run on the thread that fuzzes. A single request above 4 GiB would end the
//! process without a trace, so it is caught here: the input is saved and the program stops.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SINGLE_LIMIT: usize = 4 << 30;

thread_local! {
    static CURRENT: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LARGEST: Cell<isize> = const { Cell::new(0) };
    static INPUT: Cell<(*const u8, usize)> = const { Cell::new((std::ptr::null(), 0)) };
    static TARGET: Cell<&'static str> = const { Cell::new("none") };
}

/// Starts to count for this input.
pub fn watch(target: &'static str, input: &[u8]) {
    TARGET.set(target);
    INPUT.set((input.as_ptr(), input.len()));
    CURRENT.set(0);
    PEAK.set(0);
}

/// The most bytes that were held at one moment since `watch`.
pub fn peak() -> usize {
    LARGEST.set(LARGEST.get().max(PEAK.get()));
    PEAK.get().max(0) as usize
}

/// The largest peak of all inputs so far.
pub fn largest_peak() -> usize {
    LARGEST.get().max(0) as usize
}

fn count(change: isize) {
    let current = CURRENT.get() + change;
    CURRENT.set(current);
    if current > PEAK.get() {
        PEAK.set(current);
    }
}

fn check_request(size: usize) {
    if size > SINGLE_LIMIT {
        let (start, len) = INPUT.get();
        // SAFETY: `watch` stored pointer and length of the input, which `run_one` keeps borrowed while the target runs.
        let input = if start.is_null() { &[][..] } else { unsafe { std::slice::from_raw_parts(start, len) } };
        let path = crate::save(TARGET.get(), 999, input);
        eprintln!("{} FIND {path}: memory: one request of {size} bytes", TARGET.get());
        std::process::exit(1);
    }
}

// SAFETY: every call is passed on to the system allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check_request(layout.size());
        count(layout.size() as isize);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check_request(layout.size());
        count(layout.size() as isize);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise about `pointer` and `layout` is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        check_request(new_size);
        count(new_size as isize - layout.size() as isize);
        // SAFETY: the caller's promise about `pointer`, `layout` and `new_size` is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}
