//! Names and source positions.

/// A position in the submitted string: characters from 1, 0 when unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos(pub u32);

impl Pos {
    /// No position is known.
    pub const UNKNOWN: Pos = Pos(0);

    /// Returns the position for an error's `P` field, if it is known.
    pub fn known(self) -> Option<u32> {
        (self.0 > 0).then_some(self.0)
    }
}

/// One identifier, folded to lower case unless it was quoted.
#[derive(Clone, Debug)]
pub struct Ident {
    /// The name as the catalog knows it.
    pub value: String,
    /// Whether it was written in double quotes.
    pub quoted: bool,
    /// Where it starts.
    pub pos: Pos,
}

impl Ident {
    /// Makes an identifier that has no place in any source text.
    pub fn synthetic(value: impl Into<String>) -> Ident {
        Ident { value: value.into(), quoted: false, pos: Pos::UNKNOWN }
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.value
    }
}

impl PartialEq for Ident {
    fn eq(&self, other: &Ident) -> bool {
        self.value == other.value
    }
}

impl Eq for Ident {}

/// A name of one to three parts: `table`, `schema.table` or `database.schema.table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    /// The parts, outermost first; never empty.
    pub parts: Vec<Ident>,
}

impl ObjectName {
    /// Makes a name of one part.
    pub fn unqualified(ident: Ident) -> ObjectName {
        ObjectName { parts: vec![ident] }
    }

    /// Returns the last part: the object itself.
    pub fn last(&self) -> &Ident {
        self.parts.last().expect("the parser never builds an empty name")
    }

    /// Returns where the name starts.
    pub fn pos(&self) -> Pos {
        self.parts.first().map_or(Pos::UNKNOWN, |ident| ident.pos)
    }
}

/// A reference to a column: `c`, `t.c`, `s.t.c` or `d.s.t.c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnRef {
    /// The parts, outermost first; never empty.
    pub parts: Vec<Ident>,
}

impl ColumnRef {
    /// Returns the column's own name.
    pub fn column(&self) -> &Ident {
        self.parts.last().expect("the parser never builds an empty reference")
    }

    /// Returns the qualifying parts, outermost first.
    pub fn qualifier(&self) -> &[Ident] {
        self.parts.split_last().map_or(&[], |(_, rest)| rest)
    }

    /// Returns where the reference starts.
    pub fn pos(&self) -> Pos {
        self.parts.first().map_or(Pos::UNKNOWN, |ident| ident.pos)
    }
}
