// Command crictl is the small part of the CRI command line that kind and a person who looks into a
// node need: inspecti, rmi, images, ps, pods and info.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const defaultEndpoint = "unix:///run/containerd/containerd.sock"

// verbs by name. Every verb gets the words after it.
var verbs = map[string]func(client, context.Context, []string) error{
	"inspecti": client.inspectImage,
	"rmi":      client.removeImage,
	"images":   client.listImages,
	"ps":       client.listContainers,
	"pods":     client.listPods,
	"info":     client.info,
}

type client struct {
	images  cri.ImageServiceClient
	runtime cri.RuntimeServiceClient
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "crictl: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: crictl inspecti IMAGE | rmi IMAGE | images | ps [-a] | pods | info")
	}
	verb, ok := verbs[args[0]]
	if !ok {
		return fmt.Errorf("unknown verb %q", args[0])
	}
	endpoint := os.Getenv("CONTAINER_RUNTIME_ENDPOINT")
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c := client{images: cri.NewImageServiceClient(conn), runtime: cri.NewRuntimeServiceClient(conn)}
	return verb(c, ctx, args[1:])
}

// lastWord is the image in `inspecti [-o json] IMAGE`.
func lastWord(args []string) (*cri.ImageSpec, error) {
	if len(args) == 0 {
		return nil, errors.New("name an image")
	}
	return &cri.ImageSpec{Image: args[len(args)-1]}, nil
}

func (c client) inspectImage(ctx context.Context, args []string) error {
	image, err := lastWord(args)
	if err != nil {
		return err
	}
	r, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: image, Verbose: true})
	if err != nil {
		return err
	}
	if r.Image == nil {
		return fmt.Errorf("no such image %q present", image.Image)
	}
	type status struct {
		ID          string   `json:"id"`
		RepoTags    []string `json:"repoTags"`
		RepoDigests []string `json:"repoDigests"`
		Size        string   `json:"size"`
		Pinned      bool     `json:"pinned"`
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "  ")
	return out.Encode(map[string]any{
		"status": status{r.Image.Id, r.Image.RepoTags, r.Image.RepoDigests, fmt.Sprint(r.Image.Size), r.Image.Pinned},
		"info":   r.Info,
	})
}

func (c client) removeImage(ctx context.Context, args []string) error {
	image, err := lastWord(args)
	if err != nil {
		return err
	}
	_, err = c.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: image})
	return err
}

func (c client) listImages(ctx context.Context, _ []string) error {
	r, err := c.images.ListImages(ctx, &cri.ListImagesRequest{})
	if err != nil {
		return err
	}
	return table("IMAGE\tTAG\tIMAGE ID\tSIZE", func(row func(...any)) {
		for _, i := range r.Images {
			for _, name := range i.RepoTags {
				cut := strings.LastIndex(name, ":")
				row(name[:cut], name[cut+1:], short(i.Id), fmt.Sprintf("%.1fMB", float64(i.Size)/1e6))
			}
		}
	})
}

func (c client) listContainers(ctx context.Context, args []string) error {
	filter := &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}
	if len(args) > 0 && (args[0] == "-a" || args[0] == "--all") {
		filter = nil
	}
	r, err := c.runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: filter})
	if err != nil {
		return err
	}
	return table("CONTAINER\tSTATE\tNAME\tATTEMPT\tPOD", func(row func(...any)) {
		for _, x := range r.Containers {
			state := strings.TrimPrefix(x.State.String(), "CONTAINER_")
			row(short(x.Id), state, x.Metadata.Name, x.Metadata.Attempt, x.Labels["io.kubernetes.pod.name"])
		}
	})
}

func (c client) listPods(ctx context.Context, _ []string) error {
	r, err := c.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	return table("POD ID\tSTATE\tNAME\tNAMESPACE", func(row func(...any)) {
		for _, p := range r.Items {
			row(short(p.Id), strings.TrimPrefix(p.State.String(), "SANDBOX_"), p.Metadata.Name, p.Metadata.Namespace)
		}
	})
}

func (c client) info(ctx context.Context, _ []string) error {
	r, err := c.runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	return table("CONDITION\tSTATUS\tMESSAGE", func(row func(...any)) {
		for _, x := range r.Status.Conditions {
			row(x.Type, x.Status, x.Message)
		}
	})
}

// table prints aligned columns: the heading, then what fill hands to row.
func table(heading string, fill func(row func(...any))) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, heading)
	fill(func(cells ...any) {
		words := make([]string, len(cells))
		for i, cell := range cells {
			words[i] = fmt.Sprint(cell)
		}
		fmt.Fprintln(w, strings.Join(words, "\t"))
	})
	return w.Flush()
}

// short cuts an id to the length that people compare.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 13)]
}
