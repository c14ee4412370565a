package orbit

import "context"

type Glance struct{ Access string }

func (o *Orbit) Glance(ctx context.Context, address string) (Glance, error) {
	db, err := o.Open(ctx, address, OpenOptions{})
	if err != nil {
		return Glance{}, err
	}
	return Glance{db.Access().Address()}, nil
}
