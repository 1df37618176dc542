"""How ranks find each other: an exchange of records, and the mesh of connections that follows from it."""
