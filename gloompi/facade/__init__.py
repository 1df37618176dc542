"""gloompi with the face of mpi4py.MPI."""
